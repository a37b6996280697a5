"""Bearer tokens and what a caller may see, over real channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.errors import StartError
from server.tokens import Tokens
from server.transport import GrpcTransport
from tests.conftest import LiveServer
from tests.server.conftest import Start
from tests.server.test_life import address, ended
from tests.server.test_predict import pictures, tensor
from tests.server.test_tls import Files
from topclass import Client, TopclassError
from topclass.v1 import inference_pb2 as pb

Serve = Callable[..., LiveServer]
TOKEN, OTHER = "correct-horse-battery-staple", "b8f2c6d0a1e94f7c"
REQUEST = pb.PredictRequest(tensor=tensor(pictures(2)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with two tokens and a comment."""
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n{TOKEN}\n\n  {OTHER}  \n")
    return path


@pytest.fixture
def guarded(repository: Path, serve: Serve, file: Path, monkeypatch: pytest.MonkeyPatch) -> LiveServer:
    """A server that wants one of the two tokens, and looks at their file at every call."""
    monkeypatch.setattr("server.watched.LOOK_SECONDS", 0.0)
    return serve(models=repository, token_file=file)


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[str, str]]:
    """The metadata of a caller with this token."""
    return [("authorization", f"{scheme} {token}")]


def status(server: LiveServer, metadata: list[tuple[str, str]]) -> tuple[str, str]:
    """Status and words of a Predict with this metadata."""
    try:
        server.stub.Predict(REQUEST, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_each_token_of_the_file_is_let_in(guarded: LiveServer, token: str) -> None:
    """Several tokens are good at the same time, and the scheme may be written small."""
    assert status(guarded, bearer(token))[0] == "OK"
    assert status(guarded, bearer(token, "bearer"))[0] == "OK"


WRONG = {
    "none": [],
    "another token": bearer("correct-horse-battery-stapler"),
    "a part of a token": bearer(TOKEN[:-1]),
    "an empty one": bearer(""),
    "another scheme": bearer(TOKEN, "Basic"),
    "no scheme": [("authorization", TOKEN)],
    "two at once": [*bearer(TOKEN), *bearer(OTHER)],
    "a comment of the file": bearer("# who may call"),
    "another key": [("x-token", TOKEN)],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_caller_without_a_known_token_is_unauthenticated_and_not_told_what_was_wrong(
    guarded: LiveServer, case: str
) -> None:
    """UNAUTHENTICATED, with the same words for every mistake."""
    assert status(guarded, WRONG[case]) == (
        "UNAUTHENTICATED",
        "this server wants a token: send the metadata 'authorization: Bearer TOKEN' with one that it knows",
    )


METHODS = [
    *(
        f"/topclass.v1.InferenceService/{name}"
        for name in ("Predict", "PredictStream", "GetModel", "ListModels", "LoadModel", "UnloadModel")
    ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/topclass.v1.InferenceService/Nothing",
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("messages", [0, 1, 3])
def test_every_method_wants_a_token(guarded: LiveServer, method: str, messages: int) -> None:
    """Unary, streaming, reflection, and one that is not there: refused, however many messages are sent."""
    with pytest.raises(grpc.RpcError) as caught:
        list(guarded.channel.stream_stream(method)(iter([b""] * messages), timeout=10))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_is_open_unless_told_otherwise(repository: Path, serve: Serve, file: Path) -> None:
    """grpc.health.v1 needs no token; with open_health off it does."""
    ask = health_pb2.HealthCheckRequest()
    opened = health_pb2_grpc.HealthStub(serve(models=repository, token_file=file).channel)
    assert opened.Check(ask).status == health_pb2.HealthCheckResponse.SERVING
    closed = health_pb2_grpc.HealthStub(serve(models=repository, token_file=file, open_health=False).channel)
    with pytest.raises(grpc.RpcError) as caught:
        closed.Check(ask)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert closed.Check(ask, metadata=bearer(TOKEN)).status == health_pb2.HealthCheckResponse.SERVING


def test_the_python_client_sends_its_token(guarded: LiveServer) -> None:
    """Client(token=…) is answered by a server that wants one."""
    with Client(guarded.address, token=TOKEN) as client:
        assert len(client.predict(pictures(4)).top_class) == 4


def test_the_python_client_sends_its_token_over_tls(repository: Path, serve: Serve, file: Path, tmp_path: Path) -> None:
    """Client(token=…, root_certificates=…) is answered by a server with TLS and tokens, but not with another token."""
    files = Files(tmp_path)
    server = serve(models=repository, token_file=file, **files.settings)
    with Client(server.address, token=OTHER, root_certificates=files.ca) as client:
        assert len(client.predict(pictures(4)).top_class) == 4
    stranger = Client(server.address, token="another", root_certificates=files.ca)
    with stranger, pytest.raises(TopclassError, match="this server wants a token"):
        stranger.predict(pictures(4))


def test_tokens_change_without_a_restart(guarded: LiveServer, file: Path) -> None:
    """A token that is added is let in, one that is taken away no more."""
    file.write_text("a-new-token-of-this-week\n")
    assert status(guarded, bearer("a-new-token-of-this-week"))[0] == "OK"
    assert status(guarded, bearer(TOKEN))[0] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: path.write_text("# nobody\n"), lambda p: p.write_text("é")]
)
def test_a_token_file_that_becomes_wrong_never_opens_the_server(
    guarded: LiveServer, file: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object]
) -> None:
    """Gone, emptied or garbled: the tokens from before stay, strangers stay out, and the log says so."""
    spoil(file)
    assert status(guarded, [])[0] == "UNAUTHENTICATED"
    assert status(guarded, bearer(TOKEN))[0] == "OK"
    assert "the tokens from before stay in force" in caplog.text


NO_TOKENS = {
    "missing": (None, "cannot read the token file {}: No such file or directory"),
    "empty": (b"", "the token file {} holds no token"),
    "comments": (b"# a\n\n  # b\n", "the token file {} holds no token"),
    "a space": (b"good-token\nnot a token\n", "line 2 of the token file {} is no token"),
    "not ascii": ("gut\nschlüssel".encode(), "line 2 of the token file {} is no token"),
    "binary": (b"\xff\xfe\x00", "the token file {} is not text in UTF-8"),
}


@pytest.mark.parametrize("case", NO_TOKENS)
def test_a_wrong_token_file_ends_the_start_with_the_reason_and_never_its_content(tmp_path: Path, case: str) -> None:
    """StartError names the file and the line, and repeats no token."""
    content, words = NO_TOKENS[case]
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError) as caught:
        Tokens(path)
    assert words.format(path) in str(caught.value)
    assert "not a token" not in str(caught.value)


def test_an_empty_token_file_ends_the_command(repository: Path, tmp_path: Path, start: Start) -> None:
    """Exit status 1 and one line."""
    (tmp_path / "tokens").touch()
    code, errors = ended(start("--models", str(repository), "--token-file", str(tmp_path / "tokens")))
    assert code == 1
    assert f"topclass server: the token file {tmp_path / 'tokens'} holds no token" in errors
    assert "Traceback" not in errors


def test_no_log_line_holds_a_token(repository: Path, tmp_path: Path, file: Path, start: Start) -> None:
    """With every setting logged at start, and debug on, neither known nor sent tokens are in the log."""
    process = start("--models", str(repository), "--token-file", str(file), "--log-level", "debug")
    with grpc.insecure_channel(address(tmp_path)) as channel:
        call = channel.unary_unary("/topclass.v1.InferenceService/ListModels")
        call(b"", metadata=bearer(TOKEN))
        with pytest.raises(grpc.RpcError):
            call(b"", metadata=bearer("a-wrong-token-that-was-sent"))
    process.terminate()
    code, errors = ended(process)
    assert code == 0
    assert f"token_file={file}" in errors
    assert not any(secret in errors for secret in (TOKEN, OTHER, "a-wrong-token-that-was-sent"))


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False), ("::1", False)])
def test_tokens_in_the_clear_on_a_network_are_warned_of(
    guarded: LiveServer, caplog: pytest.LogCaptureFixture, host: str, warns: bool
) -> None:
    """Tokens without TLS on an address that others reach: a warning at start; on loopback none."""
    caplog.clear()
    GrpcTransport(guarded.app.config.__class__(host=host, token_file=guarded.app.config.token_file), {})
    assert ("tokens cross the network in the clear" in caplog.text) is warns


def test_reflection_lists_the_services_and_can_be_turned_off(repository: Path, serve: Serve) -> None:
    """v1alpha, which grpcurl falls back to, lists the services; with reflection off it is UNIMPLEMENTED."""
    ask = reflection_pb2.ServerReflectionRequest(list_services="")

    def services(server: LiveServer) -> set[str]:
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        [response] = stub.ServerReflectionInfo(iter([ask]), timeout=10)
        return {service.name for service in response.list_services_response.service}

    assert {"topclass.v1.InferenceService", "grpc.health.v1.Health"} <= services(serve(models=repository))
    with pytest.raises(grpc.RpcError) as caught:
        services(serve(models=repository, reflection=False))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_token_is_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every known token is compared, by hmac.compare_digest on digests of one length, also after one has matched."""
    import hmac

    seen = list[tuple[int, int]]()
    real = hmac.compare_digest

    def spy(left: bytes, right: bytes) -> bool:
        seen.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr("server.tokens.hmac.compare_digest", spy)
    tokens = Tokens(file)
    assert tokens.know([f"Bearer {TOKEN}"])
    assert not tokens.know(["Bearer x"])
    assert seen == [(32, 32)] * 4
