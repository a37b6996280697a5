"""The HTTP port: probes, guards, limits and the order of stopping, with real servers and real HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from server.config import load
from server.errors import ConfigError, StartError
from tests import models
from tests.conftest import LiveServer
from tests.server.conftest import Start
from tests.server.test_life import address, ended
from tests.server.test_neighbours import until
from tests.server.test_processes import TWO
from tests.server.test_repository import health
from tests.server.test_tls import Files
from tests.server.test_tokens import OTHER, TOKEN

Serve = Callable[..., LiveServer]


def where(server: LiveServer) -> str:
    """host:port of the HTTP port."""
    assert server.app.gateway is not None
    return server.app.gateway.address()


def get(url: str, token: str = "", context: ssl.SSLContext | None = None, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def of_process(tmp_path: Path) -> str:
    """host:port of the HTTP port of the command, once it is ready."""
    address(tmp_path)
    found: str = json.loads((tmp_path / "ready").read_text())["http"]
    return found


def test_a_path_that_is_not_there_is_told_so_as_json(repository: Path, serve: Serve) -> None:
    """404 names the path and what there is; another method than GET is 405."""
    at = f"http://{where(serve(models=repository, http_port=0))}"
    status, body = get(f"{at}/nowhere")
    assert status == 404
    assert json.loads(body) == {"error": "no '/nowhere' here; GET /docs or /openapi.json lists what there is"}
    status, body = get(f"{at}/metrics", method="DELETE")
    assert status == 405
    assert json.loads(body) == {"error": "DELETE is not possible here; GET, HEAD is"}
    assert get(f"{at}/metrics")[0] == 200


def test_readyz_says_what_grpc_health_says(tmp_path: Path, serve: Serve) -> None:
    """503 while no model can answer, 200 from the moment one can; /livez is 200 all the time."""
    (tmp_path / "models").mkdir()
    server = serve(http_port=0)
    at = f"http://{where(server)}"
    assert (get(f"{at}/readyz"), get(f"{at}/livez")) == ((503, "not ready\n"), (200, "alive\n"))
    assert health(server) == 2
    models.put(tmp_path / "models", "pets", 1, models.with_card(models.classifier()))
    server.refresh()
    assert get(f"{at}/readyz") == (200, "ready\n")
    assert health(server) == 1


def test_a_stopping_server_is_alive_and_not_ready_and_then_gone(repository: Path, serve: Serve) -> None:
    """During the delay /readyz is 503, and stays so whatever is loaded; /metrics goes on; then nobody listens."""
    server = serve(models=repository, http_port=0, stop_delay_seconds=0.7)
    at = f"http://{where(server)}"
    assert get(f"{at}/readyz")[0] == 200
    stopping = server.stop_async()
    until(lambda: get(f"{at}/readyz")[0] == 503)
    server.refresh()
    assert [get(f"{at}/{path}")[0] for path in ("readyz", "livez", "metrics")] == [503, 200, 200]
    stopping.result(10)
    with pytest.raises(urllib.error.URLError):
        get(f"{at}/livez")


def test_idle_and_unfinished_connections_do_not_hold_up_the_stop(
    repository: Path, tmp_path: Path, start: Start
) -> None:
    """A kept-alive connection, one that sent nothing and one that sent half a request: the command ends in seconds,
    with status 0 and no trace in the log."""
    process = start("--models", str(repository), "--stop-delay-seconds", "0")
    host, port = of_process(tmp_path).split(":")
    kept = http.client.HTTPConnection(host, int(port))
    kept.request("GET", "/livez")
    assert kept.getresponse().read() == b"alive\n"
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as half:
        half.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        time.sleep(0.1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status, errors = ended(process)
    kept.close()
    assert status == 0
    assert time.monotonic() - began < 5
    assert "Traceback" not in errors


def test_the_ready_file_and_the_log_name_the_http_port(repository: Path, tmp_path: Path, start: Start) -> None:
    """What the ready-file names answers at once; with --http-port -1 there is none, and no metrics are kept."""
    process = start("--models", str(repository))
    at = of_process(tmp_path)
    assert get(f"http://{at}/readyz") == (200, "ready\n")
    process.terminate()
    assert f", http {at}, pets v1" in ended(process)[1]
    process = start("--models", str(repository), "--http-port", "-1")
    address(tmp_path)
    assert json.loads((tmp_path / "ready").read_text()).keys() == {"grpc"}
    process.terminate()
    assert ended(process)[0] == 0


def test_metrics_want_a_token_and_health_does_not(repository: Path, tmp_path: Path, serve: Serve) -> None:
    """401 with the same words for no token and for a wrong one, whatever the path; probes need none."""
    (tmp_path / "tokens").write_text(f"{TOKEN}\n{OTHER}\n")
    at = f"http://{where(serve(models=repository, http_port=0, token_file=tmp_path / 'tokens'))}"
    answers = {get(f"{at}/{path}", token) for path in ("metrics", "nowhere", "livez/") for token in ("", TOKEN[:-1])}
    [(status, body)] = answers
    assert status == 401
    assert "wants a token: send the header 'Authorization: Bearer TOKEN'" in json.loads(body)["error"]
    assert [get(f"{at}/metrics", token)[0] for token in (TOKEN, OTHER)] == [200, 200]
    assert [get(f"{at}/{path}")[0] for path in ("livez", "readyz")] == [200, 200]


def test_health_over_http_can_be_closed_too(repository: Path, tmp_path: Path, serve: Serve) -> None:
    """With open_health off, probes need a token as everybody does."""
    (tmp_path / "tokens").write_text(TOKEN)
    at = where(serve(models=repository, http_port=0, token_file=tmp_path / "tokens", open_health=False))
    assert [get(f"http://{at}/{path}")[0] for path in ("livez", "readyz")] == [401, 401]
    assert get(f"http://{at}/readyz", TOKEN)[0] == 200


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A CA, a certificate and a key."""
    return Files(tmp_path)


def trusting(files: Files, folder: Path, client: tuple[bytes, bytes] | None = None) -> ssl.SSLContext:
    """The TLS of a caller who trusts this CA, and has this key and chain."""
    context = ssl.create_default_context(cafile=str(files.ca))
    if client:
        (folder / "client.pem").write_bytes(b"".join(client))
        context.load_cert_chain(folder / "client.pem")
    return context


def refused(url: str, context: ssl.SSLContext | None) -> bool:
    """Whether a caller gets nothing at all."""
    try:
        get(url, context=context)
    except (OSError, http.client.HTTPException):
        return True
    return False


def test_http_has_the_certificate_of_grpc(repository: Path, serve: Serve, files: Files, tmp_path: Path) -> None:
    """Who trusts the CA is answered over HTTPS; who trusts another, or speaks in the clear, gets nothing."""
    at = where(serve(models=repository, http_port=0, **files.settings))
    assert get(f"https://{at}/readyz", context=trusting(files, tmp_path)) == (200, "ready\n")
    (tmp_path / "other").mkdir()
    assert refused(f"https://{at}/readyz", trusting(Files(tmp_path / "other"), tmp_path))
    assert refused(f"http://{at}/readyz", None)


def test_http_lets_in_only_callers_with_a_certificate_where_grpc_does(
    repository: Path, serve: Serve, files: Files, tmp_path: Path
) -> None:
    """mTLS: a certificate of the CA is answered, none or another CA's is not, whatever the path."""
    at = where(serve(models=repository, http_port=0, **files.settings, tls_client_ca=files.ca))
    assert get(f"https://{at}/metrics", context=trusting(files, tmp_path, files.client()))[0] == 200
    assert refused(f"https://{at}/livez", trusting(files, tmp_path))
    (tmp_path / "other").mkdir()
    stranger = Files(tmp_path / "other").client()
    assert refused(f"https://{at}/livez", trusting(files, tmp_path, stranger))


def test_http_takes_a_new_certificate_without_a_restart(
    repository: Path, serve: Serve, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the files change, the next handshake has the new certificate and the new CA of callers; while they are
    wrong, the last good ones."""
    monkeypatch.setattr("server.watched.LOOK_SECONDS", 0.0)
    at = where(serve(models=repository, http_port=0, **files.settings, tls_client_ca=files.ca))
    before = trusting(files, tmp_path, files.client())
    assert get(f"https://{at}/livez", context=before)[0] == 200
    files.renew()
    assert get(f"https://{at}/livez", context=trusting(files, tmp_path, files.client()))[0] == 200
    assert refused(f"https://{at}/livez", before)
    now = trusting(files, tmp_path, files.client())
    files.key.write_text("no key")
    assert get(f"https://{at}/livez", context=now)[0] == 200


def test_a_session_from_before_does_not_get_past_a_new_ca(
    repository: Path, serve: Serve, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller of the old CA that tries to resume its session is let in no more than one that begins a new one."""
    monkeypatch.setattr("server.watched.LOOK_SECONDS", 0.0)
    host, port = where(serve(models=repository, http_port=0, **files.settings, tls_client_ca=files.ca)).split(":")
    context = trusting(files, tmp_path, files.client())

    def answered(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with socket.create_connection((host, int(port))) as plain:
            secure = context.wrap_socket(plain, server_hostname=host, session=session)
            secure.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert secure.recv(100).startswith(b"HTTP/1.1 200")
            return secure.session

    session = answered(None)
    files.renew()
    with pytest.raises((OSError, AssertionError)):
        answered(session)


@pytest.mark.parametrize("flags", [(), TWO])
def test_an_http_port_in_use_is_a_clear_error(repository: Path, start: Start, flags: tuple[str, ...]) -> None:
    """Exit status 1 and the address, for one process and for several, though the other would share the port."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, errors = ended(start("--models", str(repository), *flags, "--http-port", str(port)))
    assert status == 1
    assert f"topclass server: cannot listen on 127.0.0.1:{port}: is the port in use" in errors
    assert "Traceback" not in errors


def test_two_servers_never_share_an_http_port(repository: Path, serve: Serve) -> None:
    """The second does not start, and leaves the first, and no gRPC port, behind."""
    first = serve(models=repository, http_port=0)
    at = where(first)
    with pytest.raises(StartError, match="is the port in use"):
        serve(models=repository, http_port=int(at.rsplit(":", 1)[1]))
    assert get(f"http://{at}/readyz")[0] == 200


def test_both_ports_cannot_be_the_same() -> None:
    """A setting, not a surprise at the start."""
    with pytest.raises(ConfigError, match="grpc_port and http_port are both 8001; they must differ"):
        load(["--http-port", "8001"], {})


def test_an_enormous_request_line_is_refused(repository: Path, serve: Serve) -> None:
    """A megabyte of path, or of a header, is answered with 400 and nothing of it is kept; the next is served."""
    at = where(serve(models=repository, http_port=0))
    for request in (b"GET /" + b"x" * 1_000_000, b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000):
        with socket.create_connection(tuple(at.split(":"))) as connection:  # type: ignore[arg-type]
            try:
                connection.sendall(request)
                assert connection.recv(100).startswith(b"HTTP/1.1 400")
            except ConnectionError:
                pass  # it hung up before all was sent
    assert get(f"http://{at}/livez")[0] == 200
