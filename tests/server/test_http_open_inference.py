"""The Open Inference Protocol over HTTP: good answers, in JSON and by the binary extension, and bad JSON."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from onnx import TensorProto

from server.open_inference.stubs import grpc_service_pb2 as pb
from tests import models
from tests.conftest import LiveServer
from tests.server import open_inference, web
from tests.server.test_metrics import scrape
from tests.server.test_predict import pictures
from tests.server.web import ask, behind

Serve = Callable[..., LiveServer]
ROWS = pictures(3)
INFER = "/v2/models/pets/infer"


@pytest.fixture
def server(repository: Path, serve: Serve) -> LiveServer:
    """A live server of `pets` with an HTTP port."""
    return serve(models=repository, http_port=0)


def document(rows: np.ndarray = ROWS, **changes: Any) -> dict[str, Any]:
    """A request with a batch for `pets`; changes: fields of the request, or of its input where it has them."""
    tensor = {"name": "image", "datatype": {"uint8": "UINT8", "float32": "FP32"}[rows.dtype.name], "shape": rows.shape}
    tensor["data"] = rows.tolist()
    for name in ("name", "datatype", "shape", "data"):
        if name in changes:
            tensor[name] = changes.pop(name)
    return {"inputs": [tensor], **changes}


def given(reply: web.Reply) -> np.ndarray:
    """float32 [n, C] of an answer in JSON."""
    [output] = reply.json["outputs"]
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_a_batch_in_json_is_answered_row_by_row(server: LiveServer) -> None:
    """Nested or flat, the probabilities are those that gRPC gives, to the last bit; the id comes back."""
    raw = open_inference.probabilities(open_inference.call(server, "ModelInfer", open_inference.infer(ROWS)))
    for data in (ROWS.tolist(), ROWS.ravel().tolist()):
        reply = ask(server, INFER, document(data=data, id="seven"))
        assert reply.status == 200
        assert reply.json["id"] == "seven"
        np.testing.assert_array_equal(given(reply), raw)
    np.testing.assert_allclose(raw, models.expected(ROWS), atol=1e-6)


def test_floats_in_json_are_answered_as_grpc_answers_them(server: LiveServer) -> None:
    """A table of floats, whole numbers among them, in JSON and over gRPC gives the same bits."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    server.refresh()
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    rows[0] = 7
    asked = open_inference.infer(rows, model_name="table")
    raw = open_inference.probabilities(open_inference.call(server, "ModelInfer", asked))
    data = rows.tolist()
    data[0] = [7] * 5
    np.testing.assert_array_equal(given(ask(server, "/v2/models/table/infer", document(rows, data=data))), raw)


def test_an_answer_says_where_it_comes_from(server: LiveServer) -> None:
    """Model, version, the file's sha256, the provider and where the time went, as over gRPC."""
    reply = ask(server, f"{INFER.removesuffix('infer')}versions/1/infer", document()).json
    theirs = open_inference.call(server, "ModelInfer", open_inference.infer(ROWS))
    assert (reply["model_name"], reply["model_version"]) == ("pets", "1")
    assert "id" not in reply
    assert reply["parameters"].keys() == set(theirs.parameters)
    assert reply["parameters"]["sha256"] == theirs.parameters["sha256"].string_param
    assert reply["parameters"]["batch_rows"] >= 3


def binary(rows: np.ndarray, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """The same request with its tensor behind the JSON."""
    asked = document(rows, **changes)
    del asked["inputs"][0]["data"]
    asked["inputs"][0]["parameters"] = {"binary_data_size": rows.nbytes}
    return behind(asked, rows.tobytes())


def split(reply: web.Reply) -> tuple[dict[str, Any], bytes]:
    """JSON and what is behind it."""
    length = int(reply.headers[web.HEADER_LENGTH])
    assert reply.headers["content-type"] == "application/octet-stream"
    return web.strict(reply.body[:length]), reply.body[length:]


def test_tensors_go_as_bytes_in_either_direction(server: LiveServer) -> None:
    """Bytes in and JSON out, JSON in and bytes out, both, and neither, all give the same probabilities."""
    raw = given(ask(server, INFER, document()))
    assert (given(ask(server, INFER, *binary(ROWS))) == raw).all()
    output = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    for reply in (
        ask(server, INFER, document(outputs=output)),
        ask(server, INFER, *binary(ROWS, outputs=output)),
        ask(server, INFER, *binary(ROWS, parameters={"binary_data_output": True})),
    ):
        head, rest = split(reply)
        assert head["outputs"] == [
            {"name": "probabilities", "datatype": "FP32", "shape": [3, 3], "parameters": {"binary_data_size": 36}}
        ]
        np.testing.assert_array_equal(np.frombuffer(rest, "<f4").reshape(3, 3), raw)
    plain = [{"name": "probabilities", "parameters": {"binary_data": False}}]
    reply = ask(server, INFER, document(outputs=plain, parameters={"binary_data_output": True}))
    assert (given(reply) == raw).all()


def test_a_body_may_be_nothing_but_the_tensor(server: LiveServer) -> None:
    """With a JSON of length 0 the whole body is the one input, of as many rows as it holds; the answer is bytes."""
    head, rest = split(ask(server, INFER, ROWS.tobytes(), {web.HEADER_LENGTH: "0"}))
    assert head["outputs"][0]["shape"] == [3, 3]
    np.testing.assert_array_equal(np.frombuffer(rest, "<f4").reshape(3, 3), given(ask(server, INFER, document())))
    reply = ask(server, INFER, bytes(33), {web.HEADER_LENGTH: "0"})
    assert (reply.status, reply.error) == (400, "the tensor holds 33 bytes; uint8 of shape [2, 4, 4] takes 32")


def test_classes_come_as_text(server: LiveServer) -> None:
    """The classification extension, as JSON and as bytes, gives what it gives over gRPC."""
    asked = open_inference.infer(ROWS, outputs=[open_inference.output(classification=open_inference.number(2))])
    texts = open_inference.texts(open_inference.call(server, "ModelInfer", asked))
    for extra in ({}, {"binary_data": True}):
        outputs = [{"name": "probabilities", "parameters": {"classification": 2} | extra}]
        reply = ask(server, INFER, document(outputs=outputs))
        if extra:
            head, rest = split(reply)
            found = pb.ModelInferResponse(raw_output_contents=[rest])
            assert head["outputs"][0]["shape"] == [3, 2]
            assert open_inference.texts(found) == texts
        else:
            assert reply.json["outputs"] == [
                {"name": "probabilities", "datatype": "BYTES", "shape": [3, 2], "data": texts}
            ]


def test_priority_timeout_and_typed_output_are_taken(server: LiveServer) -> None:
    """Parameters of gRPC, of the kinds that clients send, change nothing about the answer in JSON."""
    parameters = {"priority": 2**63 + 1, "timeout": 5_000_000, "typed_output": True, "any": 1.5, "other": "text"}
    assert "the priority is 9223372036854775809" in ask(server, INFER, document(parameters=parameters)).error
    parameters["priority"] = 10
    assert (given(ask(server, INFER, document(parameters=parameters))) == given(ask(server, INFER, document()))).all()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
def test_a_body_may_be_compressed(server: LiveServer, encoding: str) -> None:
    """gzip and deflate, with the binary extension too: the length is that of the JSON before compression."""
    squeeze = zlib.compress if encoding == "deflate" else gzip.compress
    body, headers = binary(ROWS)
    reply = ask(server, INFER, squeeze(body), headers | {"content-encoding": encoding})
    assert (given(reply) == given(ask(server, INFER, document()))).all()


def test_a_body_that_is_not_compressed_as_it_says_is_the_callers_mistake(server: LiveServer) -> None:
    """400 for other data, half a stream, something behind it, and encodings that are not known."""
    good = gzip.compress(json.dumps(document()).encode())
    for body, words in (
        (b"plain", "the body is not gzip, as its content-encoding says"),
        (good[:-9], "the body is not one whole gzip stream"),
        (good + b"x", "the body is not one whole gzip stream"),
    ):
        reply = ask(server, INFER, body, {"content-encoding": "gzip"})
        assert (reply.status, words in reply.error) == (400, True)
    reply = ask(server, INFER, good, {"content-encoding": "br"})
    assert (reply.status, reply.error) == (
        400, "the body's content-encoding is 'br'; it may be gzip or deflate, or none"
    )  # fmt: skip


ONE = [[[0] * 4] * 4]
BAD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "no JSON": (b"image", "the body is no JSON: unexpected character"),
    "nothing": (b"", "the body is no JSON: "),
    "half": (b'{"inputs": [', "the body is no JSON: "),
    "half a surrogate pair": (b'{"id": "\\ud800", "inputs": [NaN]}', "the body is no JSON: "),
    "too deep": (b"[" * 100_000, "the body is no JSON: "),
    "too deep, with NaN": (b"[" * 100_000 + b"NaN", "the body is no JSON: "),
    "a list": (b"[]", "the body is a list; it must be an object"),
    "no inputs": (b"{}", "the request has 0 inputs; the model takes one, 'image'"),
    "inputs in words": ({"inputs": "image"}, "'inputs' is text; it must be a list"),
    "an input in words": ({"inputs": ["image"]}, "inputs[0] is text; it must be an object"),
    "many inputs": ({"inputs": [{}] * 1001}, "'inputs' has 1001 tensors; the most is 1000"),
    "two inputs": ({"inputs": [{"name": "image"}] * 2}, "the request has 2 inputs; the model takes one"),
    "a name that is none": (document(name=3), "'name' is a number; it must be text"),
    "a shape that is none": (document(shape="3x4"), "'shape' is text; it must be a list"),
    "a broken dimension": (document(shape=[1, 4.5, 4]), "the tensor's shape holds 4.5; its dimensions are whole"),
    "a true dimension": (document(shape=[True, 4, 4]), "the tensor's shape holds true or false; its dimensions"),
    "an enormous dimension": (document(shape=[2**63, 4, 4]), "the tensor's shape holds 9223372036854775808; its dim"),
    "an id that is none": (document(id=7), "'id' is a number; it must be text"),
    "data in words": (document(data="0000"), "'data' is text; it must be a list"),
    "null": (document(shape=[1, 4, 4], data=[0] * 15 + [None]), "holds null; uint8 goes from"),
    "true": (document(shape=[1, 4, 4], data=[0] * 15 + [True]), "the tensor holds true or false; uint8 goes"),
    "half a pixel": (document(shape=[1, 4, 4], data=[0] * 15 + [1.5]), "the tensor holds 1.5; uint8 goes from 0 to"),
    "text": (document(shape=[1, 4, 4], data=[0] * 15 + ["1"]), "the tensor holds text; uint8 goes"),
    "an object": (document(shape=[1, 4, 4], data=[0] * 15 + [{}]), "the tensor holds an object; uint8 goes"),
    "NaN for a pixel": (document(shape=[1, 4, 4], data=[0] * 15 + [np.nan]), "the tensor holds nan; uint8 goes"),
    "a list among numbers": (document(shape=[1, 4, 4], data=[0] * 15 + [[1]]), "the tensor holds a list; uint8 goes"),
    "300": (document(shape=[1, 4, 4], data=[0] * 15 + [300]), "the tensor holds 300; uint8 goes from 0 to 255"),
    "-1": (document(shape=[1, 4, 4], data=[0] * 15 + [-1]), "the tensor holds -1; uint8 goes from 0 to 255"),
    "2**64 - 1": (document(shape=[1, 4, 4], data=[-1] * 15 + [2**64 - 1]), "uint8 goes from 0 to 255"),
    "too few": (document(shape=[1, 4, 4], data=[0] * 15), "the tensor holds 15 values; uint8 of shape [1, 4, 4] takes"),
    "another nesting": (document(shape=[1, 4, 4], data=[[0] * 16]), "has 16 elements, 1 deep; shape [1, 4, 4] has 4"),
    "more than the shape": (document(shape=[1, 4, 4], data=ONE * 2), "has 2 elements, 0 deep; shape [1, 4, 4] has 1"),
    "uneven": (document(shape=[1, 2, 2], data=[[[0, 0], [0]]]), "has 1 elements, 2 deep; shape [1, 2, 2] has 2 there"),
    "a number beside lists": (document(shape=[2, 1, 1], data=[[[0]], 0]), "the tensor holds a number beside lists"),
    "deeper than the shape": (document(shape=[1, 1], data=[[[0]]]), "the tensor holds a list; uint8 goes"),
    "parameters in words": (document(parameters="fast"), "'parameters' is text; it must be an object"),
    "a parameter that is none": (document(parameters={"priority": None}), "'priority' is null; it"),
    "many parameters": (document(parameters=dict.fromkeys(map(str, range(1001)), 1)), "there are 1001 parameters"),
    "a flag in words": (document(parameters={"binary_data_output": "yes"}), "a string_param; it must be a bool_param"),
    "no bytes behind": (
        {"inputs": [{"name": "image", "parameters": {"binary_data_size": 16}}]},
        "the input 'image' has binary_data_size 16; the body has 0 bytes for it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_document_is_told_what_is_wrong(server: LiveServer, case: str) -> None:
    """400 with words that name what was given and what was wanted; never an internal error."""
    body, words = BAD[case]
    reply = ask(server, INFER, body)
    assert (reply.status, words in reply.error) == (400, True), reply.error


NOT_FINITE = [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"3.5e38", b"9" * 300]


@pytest.mark.parametrize("number", NOT_FINITE)
def test_the_row_of_a_number_that_is_not_finite_is_named(server: LiveServer, number: bytes) -> None:
    """NaN and the infinite, which are no JSON but sent as such, and numbers too large for float32, name their row."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    server.refresh()
    body = json.dumps(document(np.zeros((3, 5), np.float32))).encode()
    body = body.replace(b"[0.0, 0.0, 0.0, 0.0, 0.0]]", b"[0.0, 0.0, 0.0, 0.0, " + number + b"]]")
    reply = ask(server, "/v2/models/table/infer", body)
    assert (reply.status, reply.error) == (400, "row 2 holds a value that is not finite")
    assert reply.headers["topclass-row"] == "2"


def test_a_number_of_hundreds_of_digits_is_the_callers_mistake(server: LiveServer) -> None:
    """A whole number that no float holds is refused in words, also beside NaN, where another parser reads it."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    server.refresh()
    body = json.dumps(document(np.zeros((1, 5), np.float32), data=[0, 0, 0, 10**400, float("nan")]))
    reply = ask(server, "/v2/models/table/infer", body)
    assert (reply.status, "a number of hundreds of digits" in reply.error) == (400, True)


def test_wrong_lengths_of_the_binary_extension_are_named(server: LiveServer) -> None:
    """400 for a header that is no length, bytes that belong to nobody, too few of them, and data twice."""
    body, headers = binary(ROWS)
    for length, words in (("x", "is 'x'; it must be the length of the JSON"), ("99999", "which has"), ("-1", "'-1'")):
        assert words in ask(server, INFER, body, {web.HEADER_LENGTH: length}).error
    assert ask(server, INFER, body + b"x", headers).error == (
        "the body has 49 bytes after its JSON; the inputs' binary_data_size make up 48"
    )
    assert "has binary_data_size 48; the body has 47 bytes" in ask(server, INFER, body[:-1], headers).error
    twice = document()
    twice["inputs"][0]["parameters"] = {"binary_data_size": 48}
    assert "has data and binary_data_size" in ask(server, INFER, *behind(twice, ROWS.tobytes())).error


def test_damaged_requests_are_answered_or_refused_as_the_callers_mistake(server: LiveServer) -> None:
    """Bodies with a few bytes changed, in JSON and with bytes behind it, never are an internal error, and each answer
    is JSON. All on one connection, which goes on after each refusal."""
    generator = random.Random(0)
    good = (
        (json.dumps(document(outputs=[{"name": "probabilities", "parameters": {"classification": 2}}])).encode(), {}),
        binary(ROWS, parameters={"priority": 1, "timeout": 5_000_000}, id="x"),
    )
    assert server.app.gateway is not None
    connection = http.client.HTTPConnection("127.0.0.1", server.app.gateway.port, timeout=30)
    for number in range(800):
        body, headers = good[number % 2]
        data = bytearray(body)
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(len(data))] = generator.choice(b'[]{}",:019-.eEN\\ \x00\xff')
        connection.request("POST", INFER, bytes(data), headers)
        response = connection.getresponse()
        text = response.read()
        assert response.status in (200, 400, 404, 504), (bytes(data), text)
        if web.HEADER_LENGTH not in {name.lower() for name in response.headers}:
            web.strict(text)
    connection.close()


SAME = {
    "": ("ModelMetadata", pb.ModelMetadataRequest(name="pets")),
    "/config": ("ModelConfig", pb.ModelConfigRequest(name="pets")),
    "/stats": ("ModelStatistics", pb.ModelStatisticsRequest(name="pets")),
}


@pytest.mark.parametrize("path", SAME)
def test_what_is_told_of_a_model_is_what_grpc_tells(server: LiveServer, path: str) -> None:
    """Metadata, configuration and statistics have the fields and values of the messages, with and without a version."""
    ask(server, INFER, document())
    method, request = SAME[path]
    told = open_inference.call(server, method, request)
    for start in ("/v2/models/pets", "/v2/models/pets/versions/1"):
        found = ask(server, start + path).json
        message = type(told)()
        json_format.ParseDict({"config": found} if path == "/config" else found, message)
        assert message == told
    reply = ask(server, f"/v2/models/pets/versions/9{path}")
    assert (reply.status, reply.error) == (404, "model 'pets' has no version 9; it has 1")


def test_numbers_are_numbers_in_json(server: LiveServer) -> None:
    """64-bit counts are not written as text, as protobuf's own JSON has them."""
    ask(server, INFER, document())
    [stats] = ask(server, "/v2/models/stats").json["model_stats"]
    assert (stats["inference_count"], stats["inference_stats"]["success"]["count"]) == (3, 1)


def test_the_server_tells_what_it_is_and_which_models_answer(server: LiveServer) -> None:
    """/v2 lists the extensions that work, the binary one among them; /v2/models the names."""
    told = ask(server, "/v2").json
    assert told["name"] == "topclass"
    assert {"classification", "binary_tensor_data"} <= {*told["extensions"]}
    assert ask(server, "/v2/models").json == {"models": ["pets"]}


def test_health_is_200_or_503(tmp_path: Path, serve: Serve) -> None:
    """Live is 200; ready, of server and model, is 503 until a model answers, and for one that is not there."""
    (tmp_path / "models").mkdir()
    server = serve(http_port=0)
    paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/pets/ready", "/v2/models/pets/versions/1/ready")
    assert [ask(server, path).status for path in paths] == [200, 503, 503, 503]
    models.put(tmp_path / "models", "pets", 1, models.with_card(models.classifier()))
    server.refresh()
    assert [ask(server, path).status for path in (*paths, "/v2/models/x/ready")] == [200, 200, 200, 200, 503]
    assert ask(server, paths[2]).json == {"name": "pets", "ready": True}


def test_models_are_loaded_and_unloaded_where_that_is_allowed(repository: Path, serve: Serve) -> None:
    """The index follows; what cannot be asked is 501 or 409 in the words of gRPC; health knows of it at once."""
    server = serve(models=repository, http_port=0, allow_control=True)
    control = "/v2/repository/models/pets"
    assert ask(server, f"{control}/unload", b"").json == {}
    [entry] = ask(server, "/v2/repository/index", b"").json
    assert (entry["name"], entry["version"], entry["state"]) == ("pets", "1", "UNAVAILABLE")
    assert ask(server, "/v2/repository/index", {"ready": True}).json == []
    assert ask(server, "/v2/health/ready").status == 503
    assert ask(server, f"{control}/load", {"parameters": {}}).json == {}
    assert ask(server, "/readyz").status == 200
    reply = ask(server, f"{control}/load", {"parameters": {"config": "{}"}})
    assert (reply.status, "as they lie in its repository; the request has config" in reply.error) == (501, True)
    assert ask(server, f"{control}/load", {"parameters": {"x": []}}).status == 400
    assert ask(server, "/v2/repository/index", {"ready": 1}).error == "'ready' is a number; it must be true or false"
    assert ask(server, "/v2/repository/models/cars/load", b"").status == 404


def test_pages_of_other_sites_load_and_unload_nothing(repository: Path, serve: Serve) -> None:
    """A browser says where a request comes from; only the server's own page may, and what is no browser."""
    server = serve(models=repository, http_port=0, allow_control=True)
    for site, status in (("cross-site", 409), ("same-site", 409), ("same-origin", 200), ("none", 200)):
        assert ask(server, "/v2/repository/models/pets/load", b"", {"sec-fetch-site": site}).status == status


def test_without_allow_control_nothing_is_loaded(server: LiveServer) -> None:
    """409, in the words of gRPC."""
    reply = ask(server, "/v2/repository/models/pets/unload", b"")
    assert reply.status == 409
    assert reply.error == "this server takes no RepositoryModelUnload: it was not started with --allow-control"


def test_requests_over_http_are_counted(server: LiveServer) -> None:
    """Each by its operation, model, version and status, good or refused; no caller's words become a label."""
    ask(server, INFER, document())
    ask(server, INFER, document(name="x"))
    ask(server, "/v2/models/<b>/infer", document())
    told = scrape(server)
    for model, version, code in (("pets", "1", "OK"), ("pets", "1", "INVALID_ARGUMENT"), ("", "", "NOT_FOUND")):
        assert told.requests(code, "http/ModelInfer", model, version) == 1


def test_a_batch_of_thousands_comes_through_json(server: LiveServer) -> None:
    """Large documents are read, and answers written, beside the event loop, with the same result."""
    rows = pictures(8000)
    np.testing.assert_allclose(given(ask(server, INFER, document(rows))), models.expected(rows), atol=1e-6)
    outputs = [{"name": "probabilities", "parameters": {"classification": 3}}]
    assert len(ask(server, INFER, document(rows, outputs=outputs)).json["outputs"][0]["data"]) == 24_000
