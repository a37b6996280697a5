"""The HTTP port under callers that send too much, too slowly, too many at once, or leave; and behind its guards."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.http import openapi
from tests.conftest import LiveServer
from tests.server.test_fuzz import resident
from tests.server.test_gateway import files, trusting, where  # noqa: F401
from tests.server.test_http_open_inference import INFER, document
from tests.server.test_metrics import scrape
from tests.server.test_neighbours import Hold, until
from tests.server.test_predict import encoded, pictures
from tests.server.test_tls import Files
from tests.server.test_tokens import TOKEN
from tests.server.web import ask, form

Serve = Callable[..., LiveServer]
CLASSIFY = "/v1/models/pets:classify"
MIB = 1 << 20


def chunks(size: int, count: int) -> Iterator[bytes]:
    """A body of unknown length."""
    for _ in range(count):
        yield b" " * size


@pytest.mark.parametrize("path", [INFER, CLASSIFY, "/v2/repository/index"])
def test_a_body_over_the_limit_is_refused_however_it_comes(repository: Path, serve: Serve, path: str) -> None:
    """413 with the limit, for a body of known length, in chunks, and one that is so only when decompressed."""
    server = serve(models=repository, http_port=0, max_message_bytes=10_000, max_json_bytes=2000)
    words = "the body has more than 10000 bytes, the most that this server takes; send fewer rows at once"
    for body, headers in (
        (b" " * 10_001, {}),
        (chunks(1000, 11), {}),
        (gzip.compress(b" " * 10_001), {"content-encoding": "gzip"}),
        (zlib.compress(b" " * 10_000_000), {"content-encoding": "deflate"}),
    ):
        reply = ask(server, path, body, headers)
        assert (reply.status, reply.error) == (413, words)
    document = json.dumps({"inputs": [{"name": "image"}] * 200}).encode()
    if path != CLASSIFY:
        reply = ask(server, path, document)
        assert (reply.status, f"the JSON has {len(document)} bytes; the most is 2000" in reply.error) == (413, True)


def test_a_body_at_the_limit_is_answered(repository: Path, serve: Serve) -> None:
    """Its last byte is the last that is taken, plain, in chunks and compressed."""
    body = json.dumps(document(pictures(400))).encode()
    server = serve(models=repository, http_port=0, max_message_bytes=len(body), max_json_bytes=len(body))
    at = range(0, len(body), 1000)
    for given, headers in (
        (body, {}),
        ((body[start : start + 1000] for start in at), {}),
        (gzip.compress(body), {"content-encoding": "gzip"}),
    ):
        assert ask(server, INFER, given, headers).status == 200


def test_a_bomb_costs_no_more_than_the_limit(repository: Path, serve: Serve) -> None:
    """A few kilobytes that would become a gigabyte are refused in no time, and no memory is taken for it."""
    server = serve(models=repository, http_port=0, max_message_bytes=4 * MIB)
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(stream.compress(bytes(MIB)) for _ in range(1024)) + stream.flush()
    before, started = resident(), time.monotonic()
    assert ask(server, INFER, bomb, {"content-encoding": "gzip"}).status == 413
    assert resident() - before < 50 * MIB
    assert time.monotonic() - started < 5


WORST = {
    "lists": b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 4, 4], "data": ['
    + b"[]," * (MIB)
    + b"[]]}]}",
    "objects": b'{"inputs": [' + b"{}," * MIB + b"{}]}",
    "numbers": b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [' + b"1.5," * MIB + b"1]}]}",
    "keys": b'{"inputs": [], "parameters": {' + b",".join(b'"%d":1' % n for n in range(MIB // 4)) + b"}}",
    "words": b'{"inputs": [], "id": "' + b"x" * 4 * MIB + b'"}',
}


@pytest.mark.parametrize("case", WORST)
def test_the_worst_documents_cost_tens_of_times_their_size_and_not_for_long(
    repository: Path, serve: Serve, case: str
) -> None:
    """Megabytes of the most expensive JSON, from eight callers at once, are refused within seconds and given back."""
    server = serve(models=repository, http_port=0)
    before, started = resident(), time.monotonic()
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda _: ask(server, INFER, WORST[case]), range(8)))
    assert {reply.status for reply in replies} == {400}
    assert time.monotonic() - started < 20
    assert resident() - before < 8 * len(WORST[case]) + 300 * MIB


def test_a_slow_body_is_given_up(repository: Path, serve: Serve) -> None:
    """408 with what came and how long it may take, for one that stops and one that comes by drops; others go on."""
    server = serve(models=repository, http_port=0, body_seconds=0.5)
    host, port = where(server).split(":")
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    with socket.create_connection((host, int(port))) as stopped, socket.create_connection((host, int(port))) as drops:
        stopped.sendall(head + b"{")
        drops.sendall(head)
        started = time.monotonic()
        while time.monotonic() < started + 0.4:
            drops.sendall(b" ")
            time.sleep(0.05)
        for connection in (stopped, drops):
            connection.settimeout(5)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 408
            assert "the body came too slowly: " in json.loads(answer.read())["error"]
            assert answer.headers["connection"] == "close"
        assert time.monotonic() - started < 3
    assert ask(server, INFER, document()).status == 200


def post(server: LiveServer, body: bytes, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
    """A request whose answer nobody waits for yet."""
    connection = http.client.HTTPConnection(where(server), timeout=10)
    connection.request("POST", INFER, body, headers or {})
    return connection


def test_a_caller_that_leaves_is_dropped_from_the_queue(repository: Path, serve: Serve) -> None:
    """What it asked for is never computed, it counts as cancelled, and its neighbour is answered."""
    server = serve(models=repository, http_port=0, workers=1)
    hold = Hold(server)
    first = post(server, json.dumps(document(pictures(1))).encode())
    assert hold.entered.wait(10)
    leaving, staying = (post(server, json.dumps(document(pictures(n))).encode()) for n in (50, 2))
    until(lambda: server.app._batcher.waiting_rows == 52)
    leaving.close()
    until(lambda: server.app._batcher.waiting_rows == 2)
    hold.go.set()
    assert [connection.getresponse().status for connection in (first, staying)] == [200, 200]
    assert hold.batches == [1, 2]
    until(lambda: server.app.calls.in_progress == 0)
    assert scrape(server).requests("CANCELLED", "http/ModelInfer") == 1


def test_a_caller_that_leaves_in_the_middle_of_its_body_is_forgotten(repository: Path, serve: Serve) -> None:
    """Nothing stays in progress, and nothing is in the log."""
    server = serve(models=repository, http_port=0)
    host, port = where(server).split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        until(lambda: server.app.calls.in_progress == 1)
    until(lambda: server.app.calls.in_progress == 0)
    assert scrape(server).requests("CANCELLED", "http/ModelInfer", "", "") == 1


def test_one_call_more_than_the_limit_is_refused_over_http_too(repository: Path, serve: Serve) -> None:
    """429 with Retry-After; those before are answered, and probes are not counted."""
    server = serve(models=repository, http_port=0, max_calls=2)
    hold = Hold(server)
    body = json.dumps(document()).encode()
    waiting = [post(server, body), post(server, body)]
    until(lambda: server.app.calls.in_progress == 2)
    reply = ask(server, INFER, body)
    assert (reply.status, reply.headers["retry-after"]) == (429, "1")
    assert reply.error == "2 calls are in progress, the most that this server takes; try again"
    assert ask(server, "/livez").status == 200
    hold.go.set()
    assert [connection.getresponse().status for connection in waiting] == [200, 200]
    assert ask(server, INFER, body).status == 200


def test_what_was_accepted_over_http_is_finished_when_the_server_stops(repository: Path, serve: Serve) -> None:
    """A request in progress gets its answer; a new one 503; then nobody listens."""
    server = serve(models=repository, http_port=0)
    hold = Hold(server)
    waiting = post(server, json.dumps(document()).encode())
    assert hold.entered.wait(10)
    stopping = server.stop_async()
    until(lambda: server.app.calls.refusing)
    reply = ask(server, INFER, document())
    assert (reply.status, reply.error) == (503, "the server is stopping; try again, there or elsewhere")
    assert [ask(server, path).status for path in ("/readyz", "/livez")] == [503, 200]
    hold.go.set()
    assert waiting.getresponse().status == 200
    stopping.result(10)
    with pytest.raises(OSError, match="refused"):
        ask(server, "/livez")


def test_many_callers_at_once_each_get_their_own_answers_over_http(repository: Path, serve: Serve) -> None:
    """64 threads with kept-alive connections, in JSON and with pictures: no row is mixed up."""
    server = serve(models=repository, http_port=0)
    wrong, lock = list[object](), threading.Lock()

    def caller(seed: int) -> None:
        rows = pictures(1 + seed % 7, seed)
        wanted = ask(server, INFER, document(rows)).json["outputs"][0]["data"]
        connection = http.client.HTTPConnection(where(server), timeout=30)
        pngs, headers = form(*map(encoded, rows))
        for _ in range(5):
            connection.request("POST", INFER, json.dumps(document(rows)))
            found = json.loads(connection.getresponse().read())["outputs"][0]["data"]
            connection.request("POST", CLASSIFY, pngs, headers)
            classified = json.loads(connection.getresponse().read())["predictions"]
            if [found, [value for each in classified for value in each["probabilities"]]] != [wanted, wanted]:
                with lock:
                    wrong.append((seed, found, wanted))
        connection.close()

    with ThreadPoolExecutor(64) as callers:
        list(callers.map(caller, range(64)))
    assert wrong == []


def test_every_path_wants_a_token_over_http(repository: Path, tmp_path: Path, serve: Serve) -> None:
    """401 before anything is read, for every operation and the page; with a token they are answered."""
    (tmp_path / "tokens").write_text(TOKEN)
    server = serve(models=repository, http_port=0, token_file=tmp_path / "tokens")
    bearer = {"authorization": f"Bearer {TOKEN}"}
    for path, body in (("/v2", None), ("/docs", None), ("/openapi.json", None), (INFER, b"{"), (CLASSIFY, b"")):
        reply = ask(server, path, body)
        assert (reply.status, "wants a token" in reply.error) == (401, True)
        assert ask(server, path, body, bearer).status in (200, 400)
    assert ask(server, INFER, document(), bearer).status == 200


def test_inference_goes_over_https(repository: Path, serve: Serve, files: Files, tmp_path: Path) -> None:  # noqa: F811
    """With the certificate of gRPC; in the clear there is no answer."""
    server = serve(models=repository, http_port=0, **files.settings)
    connection = http.client.HTTPSConnection(where(server), context=trusting(files, tmp_path), timeout=10)
    connection.request("POST", INFER, json.dumps(document()))
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(server, INFER, document())


def described(server: LiveServer) -> dict[str, set[str]]:
    """The methods of each path in the OpenAPI document."""
    return {path: {*verbs} for path, verbs in ask(server, "/openapi.json").json["paths"].items()}


def test_the_openapi_document_has_every_operation_that_there_is(repository: Path, serve: Serve) -> None:
    """Paths and methods are those of the routes; every reference leads somewhere; operations have different ids."""
    server = serve(models=repository, http_port=0)
    document = ask(server, "/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path, verbs in described(server).items():
        real = path.format(model="pets", version="1", alias="x", region="r")
        for verb in verbs:
            status = ask(server, real, b"{" if verb == "post" else None, method=verb.upper()).status
            assert status in (200, 400, 409, 501), real
    operations = [each for verbs in document["paths"].values() for each in verbs.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        place = document
        for name in reference.split("/"):
            place = place[name]
    assert {*document["components"]["responses"]} >= {str(status) for status in openapi.STATUSES}


def test_the_page_is_whole_without_any_other_address(repository: Path, serve: Serve) -> None:
    """It names every path, loads nothing, runs no script, and its policy says so."""
    server = serve(models=repository, http_port=0)
    reply = ask(server, "/docs")
    page = reply.body.decode()
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert all(f"<code>{path}</code>" in page for path in described(server))
    assert not [word for word in ("<script", "://", "src=", "<link", "@import", "url(", " style=") if word in page]
