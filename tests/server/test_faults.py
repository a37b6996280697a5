"""A fault of ours is told as a request id and nothing else, whatever method and whatever part failed."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from server.repository import Repository
from tests.conftest import LiveServer
from tests.server.test_predict import encoded, pictures, tensor
from topclass.v1 import inference_pb2 as pb

SECRET = "the password of /etc/secret is swordfish"


def boom(*_: object, **__: object) -> None:
    """Fails in words that no caller may see."""
    raise RuntimeError(SECRET)


def broken_compute(server: LiveServer, _patch: pytest.MonkeyPatch) -> None:
    """The model fails."""
    [served] = server.app.repository.ready()
    served.lane.compute = boom


def broken_repository(_server: LiveServer, patch: pytest.MonkeyPatch) -> None:
    """The repository fails."""
    patch.setattr(Repository, "find", boom)
    patch.setattr(Repository, "entries", boom)


def broken_decoder(_server: LiveServer, patch: pytest.MonkeyPatch) -> None:
    """The picture decoder fails in a way that nobody thought of."""
    patch.setattr("server.images.decode", boom)


ROWS = pb.PredictRequest(tensor=tensor(pictures(2)))
FILES = pb.PredictRequest(images=pb.EncodedImages(images=[encoded(pictures(1)[0])]))
CASES: dict[str, tuple[Callable[..., None], Callable[[LiveServer], object]]] = {
    "Predict, the model": (broken_compute, lambda server: server.stub.Predict(ROWS)),
    "Predict, the decoder": (broken_decoder, lambda server: server.stub.Predict(FILES)),
    "Predict, the repository": (broken_repository, lambda server: server.stub.Predict(ROWS)),
    "GetModel": (broken_repository, lambda server: server.stub.GetModel(pb.GetModelRequest())),
    "ListModels": (broken_repository, lambda server: server.stub.ListModels(pb.ListModelsRequest())),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_of_ours_never_sends_our_words(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """INTERNAL with a request id, in status and metadata nothing of the exception; the log has both."""
    break_it, call = CASES[case]
    break_it(server, monkeypatch)
    with pytest.raises(grpc.RpcError) as caught:
        call(server)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    seen = f"{caught.value.details()} {caught.value.debug_error_string()} {caught.value.trailing_metadata()}"
    assert not any(word in seen for word in ("swordfish", "RuntimeError", "Traceback"))
    assert caught.value.details().split()[-1] in caplog.text
    assert SECRET in caplog.text


@pytest.mark.parametrize(("break_it", "request_"), [(broken_compute, ROWS), (broken_decoder, FILES)])
def test_a_fault_of_ours_in_a_stream_never_sends_our_words_and_leaves_the_stream_open(
    server: LiveServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[..., None],
    request_: pb.PredictRequest,
) -> None:
    """Each such request gets its own reply with INTERNAL and a request id; the others are answered."""
    break_it(server, monkeypatch)
    bad = pb.PredictRequest(tensor=pb.Tensor())
    requests = [pb.PredictStreamRequest(id=name, request=r) for name, r in (("a", request_), ("b", bad))]
    replies = {reply.id: reply.error for reply in server.stub.PredictStream(iter(requests))}
    assert replies["a"].code == grpc.StatusCode.INTERNAL.value[0]
    assert "swordfish" not in replies["a"].message
    assert replies["a"].message.split()[-1] in caplog.text
    assert replies["b"].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_words_that_quote_an_enormous_request_are_cut(server: LiveServer) -> None:
    """A megabyte of model name comes back as NOT_FOUND with the beginning of it, not as a broken call."""
    for name in ("n" * 1_000_000, "\U0001f600" * 250_000):
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.Predict(pb.PredictRequest(model=name, tensor=tensor(pictures(1))))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details().startswith(f"no model '{name[:100]}")
        assert len(caught.value.details().encode()) < 2100
