"""Pictures to labels with nothing but HTTP: files of a form, base64, or one as the body; and by curl."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import encoded, pictures
from tests.server.web import JSON, Reply, ask, form

Serve = Callable[..., LiveServer]
ROWS = pictures(3)
FILES = [encoded(row) for row in ROWS]
PATH = "/v1/models/pets:classify"


@pytest.fixture
def server(repository: Path, serve: Serve) -> LiveServer:
    """A live server of `pets` with an HTTP port."""
    return serve(models=repository, http_port=0)


def given(reply: Reply) -> np.ndarray:
    """float32 [n, C] of an answer."""
    assert reply.status == 200, reply.error
    return np.array([each["probabilities"] for each in reply.json["predictions"]], np.float32)


def test_pictures_come_as_files_of_a_form_as_base64_or_alone(server: LiveServer) -> None:
    """Each way gives the labels and probabilities of the pictures, in their order."""
    listed = [base64.b64encode(file).decode() for file in FILES]
    wanted = models.expected(ROWS)
    for reply in (ask(server, PATH, *form(*FILES)), ask(server, PATH, listed), ask(server, PATH, {"images": listed})):
        np.testing.assert_allclose(given(reply), wanted, atol=1e-6)
        assert [each["label"] for each in reply.json["predictions"]] == [
            models.LABELS[index] for index in wanted.argmax(axis=1)
        ]
    reply = ask(server, PATH, FILES[1], {"content-type": "image/png; x=y"})
    np.testing.assert_allclose(given(reply), wanted[1:2], atol=1e-6)


def test_an_answer_is_short_and_whole(server: LiveServer) -> None:
    """Nothing but what was asked: class, label and probability, provenance, timing; floats are not padded."""
    reply = ask(server, f"{PATH}?probabilities=false", *form(FILES[0]))
    document = reply.json
    [prediction] = document["predictions"]
    assert prediction.keys() == {"top_class", "label", "probability", "out_of_distribution"}
    assert document.keys() == {"predictions", "model", "version", "model_sha256", "provider", "timing"}
    file = server.models / "pets/1/model.onnx"
    assert document["model_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(str(prediction["probability"])) <= 12


def test_the_query_asks_for_ranks_and_labels(server: LiveServer) -> None:
    """top_k ranks classes with their labels, the most probable first; more than there are gives all."""
    document = ask(server, f"{PATH}?top_k=2&labels=true", *form(*FILES)).json
    assert document["labels"] == list(models.LABELS)
    for prediction in document["predictions"]:
        ranked = sorted(prediction["probabilities"], reverse=True)[:2]
        assert [each["probability"] for each in prediction["top_k"]] == ranked
        assert prediction["top_k"][0]["label"] == prediction["label"]
    assert len(ask(server, f"{PATH}?top_k=99", *form(FILES[0])).json["predictions"][0]["top_k"]) == 3


def test_a_version_or_alias_is_named_in_path_or_query(server: LiveServer) -> None:
    """By number or by name; the sha256 may be pinned; without, the one that answers."""
    models.put(server.models, "pets", 2, models.classifier(seed=1))
    (server.models / "pets/aliases.json").write_text('{"old": 1}')
    server.refresh()
    asked = ("?version=1", "?alias=old", "/versions/1", "/aliases/old", "")
    paths = [f"/v1/models/pets{a}:classify" if a.startswith("/") else PATH + a for a in asked]
    assert [ask(server, path, *form(FILES[0])).json["version"] for path in paths] == [1, 1, 1, 1, 2]
    sha256 = ask(server, PATH, *form(FILES[0])).json["model_sha256"]
    assert ask(server, f"{PATH}?sha256={sha256}", *form(FILES[0])).status == 200


WRONG = {
    "an unknown question": ("?topk=3", "the query says 'topk'; it may say top_k, version, alias, sha256"),
    "a question twice": ("?top_k=3&top_k=4", "the request says 'top_k' twice"),
    "ranks in words": ("?top_k=all", "top_k is 'all'; it must be a whole number from 0"),
    "negative ranks": ("?top_k=-1", "top_k is '-1'"),
    "enormous ranks": ("?top_k=99999999999", "top_k is '99999999999'"),
    "a flag in words": ("?labels=yes", "labels is 'yes'; it must be true or false"),
    "a version in words": ("?version=v1", "the version is 'v1'; it must be a whole number from 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_query_is_told_what_is_wrong(server: LiveServer, case: str) -> None:
    """400; nothing that the caller said is passed over."""
    query, words = WRONG[case]
    reply = ask(server, PATH + query, *form(FILES[0]))
    assert (reply.status, words in reply.error) == (400, True), reply.error


def test_what_path_and_query_say_together_is_said_once(server: LiveServer) -> None:
    """A version in both is refused, also the same."""
    assert ask(server, "/v1/models/pets/versions/1:classify?version=1", *form(FILES[0])).error == (
        "the request says 'version' twice"
    )


BODY, TYPE = form(*FILES)
FIELD = b'--xx\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--xx--\r\n'
BODIES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "no type": (FILES[0], {}, "the body's content-type is ''; it must be multipart/form-data with files"),
    "a form of curl -d": (
        FILES[0], {"content-type": "application/x-www-form-urlencoded"}, "is 'application/x-www-form-urlencoded'; it",
    ),
    "no boundary": (BODY, {"content-type": "multipart/form-data"}, "multipart/form-data names no boundary"),
    "another boundary": (BODY, {"content-type": "multipart/form-data; boundary=yy"}, "is no multipart/form-data: "),
    "not the end": (BODY[:-20], TYPE, "the body is not whole: it ends before the last boundary"),
    "nothing": (b"", TYPE, "the body is not whole"),
    "a field": (FIELD, TYPE, "the part 'top_k' of the body is no file: it has no filename; what else you want to say"),
    "no disposition": (b"--xx\r\nA: b\r\n\r\nx\r\n--xx--\r\n", TYPE, "a part of the body has no content-disposition"),
    "no headers": (b"--xx\r\n\r\nx\r\n--xx--\r\n", TYPE, "a part of the body has no content-disposition"),
    "a broken header": (b"--xx\r\nA\r\n\r\nx\r\n--xx--\r\n", TYPE, "is no multipart/form-data: "),
    "a long header": (b"--xx\r\nA: " + b"x" * 100_000 + b"\r\n\r\nx\r\n--xx--\r\n", TYPE, "is no multipart"),
    "many headers": (b"--xx\r\n" + b"A: b\r\n" * 10_000 + b"\r\nx\r\n--xx--\r\n", TYPE, "is no multipart/form-data: "),
    "text": (b'"picture"', JSON, "the body is text; it must be a list of pictures in base64"),
    "numbers": (b"[1]", JSON, "picture 0 is a number; it must be text in base64"),
    "no base64": (b'["AAAA", "???"]', JSON, "picture 1 is not in base64: "),
    "letters beyond ASCII": ('["\u00e9"]'.encode(), JSON, "picture 0 is not in base64: "),
    "images in words": (b'{"images": "x"}', JSON, "'images' is text; it must be a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_wrong_body_is_told_what_is_wrong(server: LiveServer, case: str) -> None:
    """400 with words that say what the body is and what it must be."""
    body, headers, words = BODIES[case]
    reply = ask(server, PATH, body, headers)
    assert (reply.status, words in reply.error) == (400, True), reply.error


def test_damaged_forms_are_answered_or_refused_as_the_callers_mistake(server: LiveServer) -> None:
    """Forms with a few bytes changed never are an internal error."""
    generator = random.Random(0)
    for _ in range(300):
        body = bytearray(BODY)
        for _ in range(3):
            body[generator.randrange(len(body))] = generator.randrange(256)
        assert ask(server, PATH, bytes(body), TYPE).status in (200, 400)


def test_the_index_of_a_bad_picture_is_in_a_header_too(server: LiveServer) -> None:
    """topclass-row, as over gRPC."""
    reply = ask(server, PATH, *form(FILES[0], b"none"))
    assert (reply.status, reply.headers["topclass-row"]) == (400, "1")


def test_thousands_of_pictures_are_answered_in_order(server: LiveServer) -> None:
    """Large forms and answers are read and written beside the event loop, with the same result."""
    rows = pictures(2000)
    np.testing.assert_allclose(given(ask(server, PATH, *form(*map(encoded, rows)))), models.expected(rows), atol=1e-6)


def curl(server: LiveServer, *arguments: str) -> tuple[int, bytes]:
    """Status and body of what curl was answered."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not on this machine")
    assert server.app.gateway is not None
    at = f"http://{server.app.gateway.address()}"
    command = [program, "-sS", "-m", "20", "-w", "\n%{http_code}", *(each.replace("AT", at) for each in arguments)]
    body, _, status = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.rpartition(b"\n")
    return int(status), body


def test_curl_classifies_files(server: LiveServer, tmp_path: Path) -> None:
    """`curl -F`, with two files, and one sent as the body, are answered as our own client is."""
    for index, file in enumerate(FILES):
        (tmp_path / f"{index}.png").write_bytes(file)
    status, body = curl(server, "-F", f"file=@{tmp_path}/0.png", "-F", f"file=@{tmp_path}/1.png", f"AT{PATH}?top_k=1")
    assert status == 200
    wanted = [models.LABELS[index] for index in models.expected(ROWS[:2]).argmax(axis=1)]
    assert [each["top_k"][0]["label"] for each in json.loads(body)["predictions"]] == wanted
    alone = ("-H", "Content-Type: image/png", "--data-binary", f"@{tmp_path}/0.png", f"AT{PATH}")
    assert json.loads(curl(server, *alone)[1])["predictions"][0]["label"] == wanted[0]


def test_curl_speaks_the_open_inference_protocol(server: LiveServer, tmp_path: Path) -> None:
    """JSON in and out, a tensor as the whole body, compressed bodies, and a body of unknown length."""
    asked = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": ROWS.shape, "data": ROWS.tolist()}]}
    (tmp_path / "body.json").write_text(json.dumps(asked))
    (tmp_path / "body.bin").write_bytes(ROWS.tobytes())
    path = "AT/v2/models/pets/infer"
    status, body = curl(server, "-d", f"@{tmp_path}/body.json", path)
    assert status == 200
    wanted = json.loads(body)["outputs"]
    chunked = ("-H", "Transfer-Encoding: chunked", "--data-binary", f"@{tmp_path}/body.json", path)
    assert json.loads(curl(server, *chunked)[1])["outputs"] == wanted
    raw = ("-H", "Inference-Header-Content-Length: 0", "--data-binary", f"@{tmp_path}/body.bin", path)
    status, body = curl(server, *raw)
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(body[-36:], "<f4"), np.array(wanted[0]["data"], np.float32))
    assert curl(server, "AT/v2/health/ready") == (200, b'{"ready":true}')
    assert curl(server, "-X", "DELETE", "AT/v2/models/pets")[0] == 405


def test_curl_is_told_of_a_body_that_is_too_large(repository: Path, serve: Serve, tmp_path: Path) -> None:
    """413 and its words arrive, though curl had asked whether to go on, and though it had not."""
    server = serve(models=repository, http_port=0, max_message_bytes=3_000_000)
    (tmp_path / "large").write_bytes(bytes(4_000_000))
    for more in (("-H", "Expect:"), ()):
        status, body = curl(server, *more, "--data-binary", f"@{tmp_path}/large", "AT/v2/models/pets/infer")
        assert status == 413
        assert b"the body has more than 3000000 bytes" in body
