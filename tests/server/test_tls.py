"""TLS and mTLS, with certificates made for each test, real servers and real channels."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.config import Config, checked
from server.errors import ConfigError, StartError
from server.watched import Watched
from tests.conftest import LiveServer
from tests.server.conftest import Start
from tests.server.test_life import ended
from tests.server.test_neighbours import until
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc

Serve = Callable[..., LiveServer]


class Files:
    """A CA and what it signed, as files in one folder."""

    def __init__(self, folder: Path):
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "certificate.pem", folder / "key.pem"
        self.renew()

    def renew(self) -> None:
        """A new CA, and a certificate and a key of it, in place of those before."""
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.ca))
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def client(self) -> tuple[bytes, bytes]:
        """Key and chain of a caller whom this CA vouches for."""
        issued = self.authority.issue_cert("caller@example.org")
        return issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems)

    @property
    def settings(self) -> dict[str, Path]:
        """The settings of a server that uses them."""
        return {"tls_certificate": self.certificate, "tls_key": self.key}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A CA, a certificate and a key."""
    return Files(tmp_path)


def ask(server: LiveServer, roots: bytes, client: tuple[bytes, bytes] | None = None) -> str:
    """What a new connection's first Predict gives: OK, or the status."""
    trust = grpc.ssl_channel_credentials(roots, *(client or (None, None)))
    # Each connection of its own: a session from before would prove nothing.
    with grpc.secure_channel(server.address, trust, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            return str(len(stub.Predict(pb.PredictRequest(tensor=tensor(pictures(3))), timeout=5).predictions))
        except grpc.RpcError as error:
            return error.code().name


def test_a_server_with_a_certificate_answers_who_trusts_its_ca_and_nobody_in_the_clear(
    repository: Path, serve: Serve, files: Files, tmp_path: Path
) -> None:
    """A caller who knows the CA is answered; one who knows another CA, or speaks without TLS, is not."""
    server = serve(models=repository, **files.settings)
    assert ask(server, files.ca.read_bytes()) == "3"
    (tmp_path / "other").mkdir()
    assert ask(server, Files(tmp_path / "other").ca.read_bytes()) == "UNAVAILABLE"
    with pytest.raises(grpc.RpcError) as caught:  # the fixture's own channel is in the clear
        server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_with_a_client_ca_only_callers_with_its_certificate_are_let_in(
    repository: Path, serve: Serve, files: Files, tmp_path: Path
) -> None:
    """mTLS: a certificate of the CA is answered; none, or one of another CA, does not get through the handshake."""
    server = serve(models=repository, **files.settings, tls_client_ca=files.ca)
    roots = files.ca.read_bytes()
    assert ask(server, roots, files.client()) == "3"
    assert ask(server, roots) == "UNAVAILABLE"
    (tmp_path / "other").mkdir()
    assert ask(server, roots, Files(tmp_path / "other").client()) == "UNAVAILABLE"


def test_a_new_certificate_is_used_without_a_restart_and_open_connections_stay(
    repository: Path, serve: Serve, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the files change, new connections get the new certificate; who is connected notices nothing."""
    monkeypatch.setattr("server.watched.LOOK_SECONDS", 0.0)
    server = serve(models=repository, **files.settings, tls_client_ca=files.ca)
    before, client = files.ca.read_bytes(), files.client()
    with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(before, *client)) as open_before:
        stub = inference_pb2_grpc.InferenceServiceStub(open_before)
        stub.ListModels(pb.ListModelsRequest())
        files.renew()
        assert ask(server, files.ca.read_bytes(), files.client()) == "3"
        assert ask(server, before, client) == "UNAVAILABLE"
        assert len(stub.ListModels(pb.ListModelsRequest()).models) == 1


def test_certificate_files_that_become_wrong_change_nothing_and_are_logged(
    repository: Path, serve: Serve, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the files are gone or do not fit together, the last good ones serve, and the log says why."""
    monkeypatch.setattr("server.watched.LOOK_SECONDS", 0.0)
    server = serve(models=repository, **files.settings)
    roots = files.ca.read_bytes()
    for change, words in [
        (files.key.unlink, "cannot read the TLS file"),
        (lambda: files.key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes()), "is not that of the"),
        (lambda: files.certificate.write_text("half"), "is not in PEM format"),
    ]:
        change()
        assert ask(server, roots) == "3"
        assert "the last good ones stay in force" in caplog.text
        assert words in caplog.text


def test_a_look_at_the_files_is_taken_at_most_every_second(tmp_path: Path) -> None:
    """A change is seen at the first call after a second, not before."""
    file = tmp_path / "file"
    file.write_text("old")
    watched = Watched([file], file.read_text, pytest.fail)
    file.write_text("newer")
    assert watched.value() == "old"
    until(lambda: watched.value() == "newer")


def unreadable(files: Files) -> str:
    """A certificate that is not there."""
    files.certificate.unlink()
    return f"cannot read the TLS file {files.certificate}: No such file or directory"


def a_folder(files: Files) -> str:
    """A folder where the key should be."""
    files.key.unlink()
    files.key.mkdir()
    return f"cannot read the TLS file {files.key}: Is a directory"


def another_key(files: Files) -> str:
    """The key of another certificate."""
    files.key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    return f"the TLS key {files.key} is not that of the certificate {files.certificate}"


def no_pem(files: Files) -> str:
    """A certificate in DER."""
    files.certificate.write_bytes(ssl.PEM_cert_to_DER_cert(files.certificate.read_text().split("\n\n")[0]))
    return f"the TLS certificate {files.certificate} or its key {files.key} is not in PEM format"


def encrypted(files: Files) -> str:
    """A key that wants a password."""
    files.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    return f"the TLS key {files.key} is encrypted"


def no_ca(files: Files) -> str:
    """A CA file without a certificate."""
    files.ca.write_text("nothing")
    return f"the TLS client CA {files.ca} holds no certificate in PEM format"


@pytest.mark.parametrize("spoil", [unreadable, a_folder, another_key, no_pem, encrypted, no_ca])
def test_wrong_certificate_files_end_the_start_with_the_file_and_the_reason(
    repository: Path, serve: Serve, files: Files, spoil: Callable[[Files], str]
) -> None:
    """StartError names the file and what is wrong with it; the server never starts without the TLS asked for."""
    words = spoil(files)
    with pytest.raises(StartError) as caught:
        serve(models=repository, **files.settings, tls_client_ca=files.ca)
    assert words in str(caught.value)


def test_a_key_of_another_certificate_ends_the_command(repository: Path, files: Files, start: Start) -> None:
    """Exit status 1 and one line, no traceback."""
    words = another_key(files)
    flags = ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
    status, errors = ended(start("--models", str(repository), *flags))
    assert status == 1
    assert f"topclass server: {words}" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_certificate": Path("c")}, "tls_certificate and tls_key go together"),
        ({"tls_key": Path("k")}, "tls_certificate and tls_key go together"),
        ({"tls_client_ca": Path("a")}, "tls_client_ca needs tls_certificate and tls_key"),
    ],
)
def test_half_of_tls_is_no_setting(settings: dict[str, Path], words: str) -> None:
    """A certificate without its key, or a client CA without either, is an error, never plain text."""
    with pytest.raises(ConfigError, match=words):
        checked(Config(**settings))


def test_no_accepted_request_is_lost_over_tls_when_the_server_stops(
    repository: Path, serve: Serve, files: Files
) -> None:
    """Stopping under load over TLS: each call is answered, or refused as UNAVAILABLE."""
    server = serve(models=repository, **files.settings)
    trust = grpc.ssl_channel_credentials(files.ca.read_bytes())
    answered, statuses = [0] * 4, set[grpc.StatusCode]()

    def caller(index: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(server.address, trust, options=options) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while True:
                try:
                    stub.Predict(pb.PredictRequest(tensor=tensor(pictures(40))), timeout=20)
                    answered[index] += 1
                except grpc.RpcError as error:
                    statuses.add(error.code())
                    return

    callers = [threading.Thread(target=caller, args=(index,)) for index in range(4)]
    for thread in callers:
        thread.start()
    until(lambda: all(answered))
    server.stop_async().result(30)
    for thread in callers:
        thread.join(30)
    assert statuses == {grpc.StatusCode.UNAVAILABLE}


def test_health_works_over_tls(repository: Path, serve: Serve, files: Files) -> None:
    """grpc.health.v1 is on the same port, under the same certificate."""
    server = serve(models=repository, **files.settings)
    with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(files.ca.read_bytes())) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
