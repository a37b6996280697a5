"""Every error class, as it comes over the wire; from the real server where it can be made to raise it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from onnx import TensorProto

import topclass
from tests import models
from tests.clients.fake import Failure, Fake, serving
from tests.clients.test_predict import PICTURES, png

Code = grpc.StatusCode


def test_shape(client: Any) -> None:
    """A picture without a batch dimension is InvalidInput, in the server's words, which name both shapes."""
    with pytest.raises(topclass.InvalidInput, match=r"\[4, 4\].*uint8 \[N, 4, 4\]") as caught:
        client.predict(PICTURES[0])
    assert (caught.value.code, caught.value.row) == (Code.INVALID_ARGUMENT, None)


def test_bad_picture(client: Any) -> None:
    """A picture that cannot be decoded is InvalidInput, and `row` is its place in the list."""
    with pytest.raises(topclass.InvalidInput, match="picture 2 cannot be decoded") as caught:
        client.predict([png(PICTURES[0]), png(PICTURES[1]), b"no picture", png(PICTURES[2])])
    assert caught.value.row == 2


def test_non_finite_row(connect: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path) -> None:
    """A row with a value that is not finite, or too large for float32, is InvalidInput, and `row` is its number."""
    models.put(tmp_path / "models", "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    client = connect(serve().address)
    for bad in (np.nan, 1e300):
        rows = np.ones((4, 5))
        rows[3, 2] = bad
        with pytest.raises(topclass.InvalidInput, match="row 3") as caught:
            client.predict(rows)
        assert caught.value.row == 3


def test_empty_batches(client: Any) -> None:
    """A batch of no rows is InvalidInput, as an array and as a list of no files."""
    for nothing in (PICTURES[:0], []):
        with pytest.raises(topclass.InvalidInput):
            client.predict(nothing)


def test_not_found(client: Any) -> None:
    """A model that is not served is NotFound, and so is a version of one that is."""
    for call in (
        lambda: client.predict(PICTURES, "cars"),
        lambda: client.predict(PICTURES, "pets", version=9),
        lambda: client.model("cars"),
    ):
        with pytest.raises(topclass.NotFound) as caught:
            call()
        assert caught.value.code is Code.NOT_FOUND


def test_model_changed(client: Any) -> None:
    """A pinned sha256 that is another file's is ModelChanged; the right one is answered."""
    right = client.predict(PICTURES).sha256
    assert client.predict(PICTURES, sha256=right).sha256 == right
    with pytest.raises(topclass.ModelChanged) as caught:
        client.predict(PICTURES, sha256="0" * 64)
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_message_too_large(connect: Callable[..., Any], repository: Path, serve: Callable[..., Any]) -> None:
    """A request larger than the server takes is Overloaded, without a time to come back, and is not tried again."""
    client = connect(serve(models=repository, max_message_bytes=2048).address, retries=0)
    with pytest.raises(topclass.Overloaded, match="larger than max") as caught:
        client.predict(np.zeros((1000, 4, 4), np.uint8))
    assert caught.value.retry_after is None
    assert "tried" not in str(caught.value)


def test_nobody_there(connect: Callable[..., Any]) -> None:
    """Where nothing listens, Unavailable names the address, the cause and what to check."""
    with pytest.raises(topclass.Unavailable) as caught:
        connect("127.0.0.1:1", retries=1).predict(PICTURES)
    text = str(caught.value)
    assert text.startswith("no answer from a topclass server at 127.0.0.1:1: Connection refused. Is it running")
    assert "(tried 2 times in " in text


def test_unknown_host(connect: Callable[..., Any]) -> None:
    """A host name that does not exist is Unavailable, and the name is in the words."""
    with pytest.raises((topclass.Unavailable, topclass.DeadlineExceeded), match=r"no-such-host\.invalid:8001"):
        connect("no-such-host.invalid:8001", retries=0, timeout=5).models()


def test_empty_server_is_not_healthy(connect: Callable[..., Any], tmp_path: Path, serve: Callable[..., Any]) -> None:
    """A server without models is not healthy, and waiting for it ends with what it said last."""
    (tmp_path / "models").mkdir()
    client = connect(serve().address)
    assert client.health() == "not serving"
    assert not client.healthy()
    with pytest.raises(topclass.Unavailable, match=r"not ready after 0\.3 s: the server at .* is not serving"):
        client.wait_ready(0.3)


def test_wait_ready_sees_the_model_arrive(
    connect: Callable[..., Any], tmp_path: Path, serve: Callable[..., Any]
) -> None:
    """wait_ready returns when the first model is published."""
    (tmp_path / "models").mkdir()
    server = serve(watch_seconds=0.05)
    client = connect(server.address)
    assert not client.healthy()
    models.put(tmp_path / "models", "pets", 1, models.classifier())
    client.wait_ready(20)
    assert client.healthy()


def test_nobody_is_not_healthy(connect: Callable[..., Any]) -> None:
    """Where nobody answers, healthy is False, health raises, and waiting ends with the reason."""
    client = connect("127.0.0.1:1")
    assert not client.healthy()
    with pytest.raises(topclass.Unavailable):
        client.health()
    with pytest.raises(topclass.Unavailable, match=r"not ready after 0\.2 s: no answer .* Connection refused"):
        client.wait_ready(0.2)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, topclass.InvalidInput),
        (Code.NOT_FOUND, topclass.NotFound),
        (Code.FAILED_PRECONDITION, topclass.ModelChanged),
        (Code.RESOURCE_EXHAUSTED, topclass.Overloaded),
        (Code.DEADLINE_EXCEEDED, topclass.DeadlineExceeded),
        (Code.UNAVAILABLE, topclass.Unavailable),
        (Code.UNAUTHENTICATED, topclass.Unauthenticated),
        (Code.PERMISSION_DENIED, topclass.Unauthenticated),
        (Code.INTERNAL, topclass.ServerFault),
        (Code.UNKNOWN, topclass.ServerFault),
        (Code.ABORTED, topclass.TopclassError),
    ],
)
def test_every_status(
    connect: Callable[..., Any], fake: Fake, code: grpc.StatusCode, kind: type[topclass.TopclassError]
) -> None:
    """Each status becomes its class, with the code and the server's words, and survives pickling."""
    fake.failures = [Failure(code, "the words of the server")]
    with pytest.raises(topclass.TopclassError) as caught:
        connect(fake.address, retries=0).predict(PICTURES)
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message) == (code, "the words of the server")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.code, str(copy)) == (kind, code, str(caught.value))


def test_not_a_topclass_server(connect: Callable[..., Any], fake: Fake) -> None:
    """A server that does not know the call is asked about: is it a topclass server?"""
    with pytest.raises(topclass.TopclassError, match=r"does not know this call.*Is it a topclass server\?"):
        connect(fake.address).health()


def test_token(connect: Callable[..., Any], fake: Fake) -> None:
    """The token is sent with every call, as a bearer token."""
    connect(fake.address, token="secret").predict(PICTURES)
    assert fake.metadata[0]["authorization"] == "Bearer secret"
    connect(fake.address).predict(PICTURES)
    assert "authorization" not in fake.metadata[1]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that signs certificates for this test alone."""
    return trustme.CA()


def test_tls(connect: Callable[..., Any], authority: trustme.CA, tmp_path: Path) -> None:
    """With the right root certificates, as bytes or a file, the call is encrypted; with none, or others, not sent."""
    mine = authority.issue_cert("localhost")
    key, chain = mine.private_key_pem.bytes(), b"".join(pem.bytes() for pem in mine.cert_chain_pems)
    root = authority.cert_pem.bytes()
    authority.cert_pem.write_to_path(str(tmp_path / "root.pem"))
    with serving(Fake(), credentials=grpc.ssl_server_credentials([(key, chain)])) as fake:
        address = f"localhost:{fake.port}"
        assert len(connect(address, root_certificates=root).predict(PICTURES)) == 9
        assert len(connect(address, root_certificates=tmp_path / "root.pem").predict(PICTURES)) == 9
        for trusted in (None, trustme.CA().cert_pem.bytes()):
            with pytest.raises(topclass.Unavailable, match=f"localhost:{fake.port}"):
                connect(address, retries=0, root_certificates=trusted).predict(PICTURES)
        assert len(fake.requests) == 2
