"""Classifiers that our exporter did not make: with labels.txt, with model.toml, from scikit-learn, and refused ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, probabilities
from tests.server.test_repository import listed, predict
from topclass.v1 import inference_pb2 as pb

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = f'layout = "NCHW"\nscale = {1 / 255}\nmean = {list(MEAN)}\nstd = {list(STD)}\noutput = "logits"\n'


def put(repository: Path, proto: onnx.ModelProto, version: int = 1, **files: str | bytes) -> None:
    """Publishes `pets` with files beside the model: labels= and toml=."""
    hidden = repository / ".hidden"
    hidden.mkdir(parents=True)
    (hidden / "model.onnx").write_bytes(proto.SerializeToString())
    for name, text in files.items():
        data = text.encode() if isinstance(text, str) else text
        (hidden / {"labels": "labels.txt", "toml": "model.toml"}[name]).write_bytes(data)
    (repository / "pets").mkdir(exist_ok=True)
    hidden.rename(repository / "pets" / str(version))


@pytest.fixture
def serving(tmp_path: Path, serve: Callable[..., LiveServer]) -> Callable[..., LiveServer]:
    """A function that serves `pets` made of a model and files: serving(proto, labels=…, toml=…)."""

    def start(proto: onnx.ModelProto, **files: str | bytes) -> LiveServer:
        put(tmp_path / "models", proto, **files)
        return serve(models=tmp_path / "models")

    return start


def reason(server: LiveServer) -> str:
    """Why version 1 of `pets` is refused."""
    entry = listed(server)["pets", 1]
    assert entry.state == pb.MODEL_STATE_UNAVAILABLE
    return entry.reason


def details(server: LiveServer) -> pb.GetModelResponse:
    """What GetModel says."""
    return server.stub.GetModel(pb.GetModelRequest(model="pets"))


def linear(row: tuple[Any, ...], *, classes: int = 3, finish: str = "", flat: int = 0) -> onnx.ModelProto:
    """flat(x) · W of float32 [N, *row]: logits [N, classes], or with `finish` an operator after it."""
    flat = flat or int(np.prod(row))
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores" if finish else "probabilities"]),
    ]
    if finish:
        nodes.append(helper.make_node(finish, ["scores"], ["probabilities"]))
    constants = [numpy_helper.from_array(models.weights(flat, classes) * 100, "w")]
    return models.model(nodes, constants, row, classes, dtype=TensorProto.FLOAT)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def logits(rows: np.ndarray, classes: int = 3) -> np.ndarray:
    """What `linear` computes, by numpy."""
    flat = rows.reshape(len(rows), -1).astype(np.float32)
    return flat @ (models.weights(flat.shape[1], classes) * 100)


def colour(count: int) -> np.ndarray:
    """Random pictures uint8 [count, 5, 4, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4, 3), np.uint8)


# ---- labels ----


def test_labels_stand_in_a_file_beside_the_model(serving: Callable[..., LiveServer]) -> None:
    """labels.txt, UTF-8, one a line, however its lines end, names the classes."""
    server = serving(models.classifier(), labels="\ufeffKatze\r\nHünd chen\r\nåäö\r\n")
    assert list(details(server).labels) == ["Katze", "Hünd chen", "åäö"]
    rows = pictures(3)
    names = [prediction.label for prediction in predict(server, rows=rows).predictions]
    assert names == [("Katze", "Hünd chen", "åäö")[top] for top in models.expected(rows).argmax(axis=1)]


def test_without_labels_the_classes_are_numbered(serving: Callable[..., LiveServer]) -> None:
    """A model with nothing beside it has the labels 0, 1, 2."""
    assert list(details(serving(models.classifier())).labels) == ["0", "1", "2"]


WRONG_LABELS = {
    "too few": ("cat\ndog\n", "labels.txt has 2 labels for 3 classes"),
    "an empty line": ("cat\n\nemu\n", "labels.txt has an empty line, line 2"),
    "nothing": ("", "labels.txt has an empty line, line 1"),
    "not UTF-8": (b"cat\nd\xf6g\nemu", "labels.txt is not UTF-8"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_labels_that_do_not_fit_refuse_the_version(serving: Callable[..., LiveServer], case: str) -> None:
    """The reason names the file, what it has and what was expected."""
    text, words = WRONG_LABELS[case]
    assert words in reason(serving(models.classifier(), labels=text))


def test_a_card_and_a_labels_file_must_agree(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """The same labels in both are served; others are refused, since one of them is wrong; so is a model.toml."""
    put(repository, models.with_card(models.classifier()), 2, labels="cat\ndog\nemu\n")
    put(repository, models.with_card(models.classifier()), 3, labels="dog\ncat\nemu\n")
    put(repository, models.with_card(models.classifier()), 4, toml='output = "logits"')
    server = serve(models=repository, version_policy="all")
    assert predict(server).version == 2
    assert "its card and labels.txt have different labels; remove labels.txt" in listed(server)["pets", 3].reason
    assert "it has a card, which describes it, and model.toml beside it" in listed(server)["pets", 4].reason


def test_a_file_beside_the_model_that_changes_loads_it_again(serving: Callable[..., LiveServer]) -> None:
    """New labels, and a repaired model.toml, are taken at the next look."""
    server = serving(models.classifier(), labels="a\nb\nc\n", toml="colour = 1")
    assert "model.toml has unknown keys: colour; it may have labels, layout, size" in reason(server)
    (server.models / "pets" / "1" / "model.toml").unlink()
    server.refresh()
    assert list(details(server).labels) == ["a", "b", "c"]
    (server.models / "pets" / "1" / "labels.txt").write_text("x\ny\nz\n")
    server.refresh()
    assert list(details(server).labels) == ["x", "y", "z"]


# ---- pictures for float models ----


def test_pictures_are_scaled_and_transposed_for_a_float_model_of_nchw(serving: Callable[..., LiveServer]) -> None:
    """With model.toml callers send uint8 [N, H, W, C]; the graph gets (x * scale - mean) / std in its layout."""
    server = serving(linear((3, 5, 4)), toml=IMAGENET + 'labels = ["cat", "dog", "emu"]\n')
    spec = details(server).input
    assert (spec.dtype, list(spec.shape)) == (pb.DATA_TYPE_UINT8, [-1, 5, 4, 3])
    rows = colour(300)
    prepared = ((rows / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    answer = predict(server, rows=rows)
    np.testing.assert_allclose(probabilities(answer), softmax(logits(prepared)), atol=1e-4)
    assert {prediction.label for prediction in answer.predictions} <= {"cat", "dog", "emu"}


def test_encoded_pictures_can_be_sent_to_a_float_model(serving: Callable[..., LiveServer]) -> None:
    """A PNG of the model's size gives what its pixels give."""
    server = serving(linear((3, 5, 4)), toml=IMAGENET)
    rows = colour(2)
    files = []
    for row in rows:
        file = io.BytesIO()
        Image.fromarray(row).save(file, "PNG")
        files.append(file.getvalue())
    encoded = server.stub.Predict(pb.PredictRequest(images=pb.EncodedImages(images=files)))
    np.testing.assert_allclose(probabilities(encoded), probabilities(predict(server, rows=rows)), atol=1e-6)


LAYOUTS = {
    "NHWC": ((5, 4, 3), 'layout = "NHWC"\nscale = 0.01', (5, 4, 3), lambda x: x * 0.01),
    "NHW": ((5, 4), 'layout = "NHW"\nmean = 128\nstd = 64', (5, 4), lambda x: (x - 128.0) / 64),
    "one channel": ((1, 5, 4), 'layout = "NCHW"', (5, 4, 1), lambda x: x.transpose(0, 3, 1, 2)),
    "BGR": (
        (3, 5, 4), 'layout = "NCHW"\ncolours = "BGR"\nmean = [100, 110, 120]', (5, 4, 3),
        lambda x: (x[..., ::-1] - np.array([100.0, 110.0, 120.0])).transpose(0, 3, 1, 2),
    ),
    "open height and width": (
        (3, "H", "W"), 'layout = "NCHW"\nsize = [5, 4]', (5, 4, 3), lambda x: x.transpose(0, 3, 1, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_gets_the_pictures_as_it_wants_them(serving: Callable[..., LiveServer], case: str) -> None:
    """NHW, NHWC and NCHW, RGB and BGR, grey and colour, with one number or one for each channel, sizes open or not."""
    row, toml, sent, prepare = LAYOUTS[case]
    flat = int(np.prod(sent))
    server = serving(linear(row, flat=flat), toml=toml + '\noutput = "logits"')
    rows = np.random.default_rng(1).integers(0, 256, (9, *sent), np.uint8)
    np.testing.assert_allclose(probabilities(predict(server, rows=rows)), softmax(logits(prepare(rows))), atol=1e-4)


def test_a_uint8_model_of_nchw_is_fed_pictures(serving: Callable[..., LiveServer]) -> None:
    """layout alone serves a graph that scales by itself; callers send [N, H, W, C]."""
    server = serving(models.classifier((3, 5, 4)), toml='layout = "NCHW"')
    rows = colour(7)
    np.testing.assert_allclose(
        probabilities(predict(server, rows=rows)), models.expected(rows.transpose(0, 3, 1, 2)), atol=1e-6
    )


def test_without_a_description_a_float_model_takes_floats_as_they_are(serving: Callable[..., LiveServer]) -> None:
    """NCHW floats are served with zero configuration, unconverted; uint8 is refused in words, not converted."""
    server = serving(linear((3, 5, 4), finish="Softmax"))
    rows = colour(4).transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_allclose(probabilities(predict(server, rows=rows)), softmax(logits(rows)), atol=1e-5)
    with pytest.raises(grpc.RpcError) as caught:
        predict(server, rows=colour(1))
    assert "the input is uint8; the model takes float32 [N, 3, 5, 4]" in caught.value.details()


# ---- outputs ----


def test_logits_are_softmaxed_when_told_so(serving: Callable[..., LiveServer]) -> None:
    """output = "logits" gives probabilities; of values far apart too."""
    server = serving(linear((6,)), toml='output = "logits"')
    rows = np.random.default_rng(0).normal(0, 1000, (50, 6)).astype(np.float32)
    np.testing.assert_allclose(probabilities(predict(server, rows=rows)), softmax(logits(rows)), atol=1e-5)


@pytest.mark.parametrize(("finish", "output"), [("Sigmoid", "sigmoid"), ("", "logits")])
def test_one_column_is_two_classes_when_told_so(serving: Callable[..., LiveServer], finish: str, output: str) -> None:
    """The probability of the second class, or its logit, becomes two columns that sum to 1."""
    server = serving(linear((6,), classes=1, finish=finish), toml=f'output = "{output}"\nlabels = ["no", "yes"]')
    rows = np.random.default_rng(0).normal(0, 1, (20, 6)).astype(np.float32)
    second = 1 / (1 + np.exp(-logits(rows, 1)))
    np.testing.assert_allclose(
        probabilities(predict(server, rows=rows)), np.concatenate([1 - second, second], axis=1), atol=1e-6
    )
    assert list(details(server).labels) == ["no", "yes"]


def test_one_output_of_several_can_be_named(serving: Callable[..., LiveServer]) -> None:
    """Beside an embedding of the same form, output_name says which output is the answer."""
    proto = linear((6,), classes=3, finish="Softmax")
    proto.graph.output[0].name = proto.graph.node[2].output[0] = "answer"
    proto.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]))
    server = serving(proto)
    assert "or by output_name in model.toml beside it" in reason(server)
    (server.models / "pets" / "1" / "model.toml").write_text('output_name = "answer"')
    server.refresh()
    assert predict(server, rows=np.ones((2, 6), np.float32)).version == 1


# ---- scikit-learn, as skl2onnx writes it ----


def sklearn(node: onnx.NodeProto, label: int, zipmap: str = "") -> onnx.ModelProto:
    """A model of one classifier node: float [None, F] → label [N], and probabilities [N, C] or a ZipMap of them."""
    nodes, last = [node], helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])
    if zipmap:
        nodes.append(
            helper.make_node("ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml",
                             classlabels_strings=["setosa", "versicolor", "virginica"])
        )  # fmt: skip
        mapped = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        last = helper.make_value_info("output_probability", helper.make_sequence_type_proto(mapped))
    graph = helper.make_graph(
        nodes, "sklearn", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("label", label, [None]), last],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


COEFFICIENTS = np.array([[1, -1], [0.5, 2], [-2, 0.25]], np.float32)


def logistic(**labels: Any) -> onnx.NodeProto:
    """What a LogisticRegression becomes."""
    return helper.make_node(
        "LinearClassifier", ["X"], ["label", "probabilities"], domain="ai.onnx.ml",
        coefficients=COEFFICIENTS.ravel().tolist(), intercepts=[0.1, 0.0, -0.1], post_transform="SOFTMAX",
        multi_class=1, **labels,
    )  # fmt: skip


def test_a_logistic_regression_of_scikit_learn_is_served_with_its_labels(serving: Callable[..., LiveServer]) -> None:
    """Label and probability outputs: the probabilities answer, and the labels are those in the classifier's node."""
    names = ["setosa", "versicolor", "virginica"]
    server = serving(sklearn(logistic(classlabels_strings=names), TensorProto.STRING))
    rows = np.random.default_rng(0).normal(0, 1, (40, 2)).astype(np.float32)
    expected = softmax(rows @ COEFFICIENTS.T + np.array([0.1, 0.0, -0.1], np.float32))
    answer = predict(server, rows=rows)
    np.testing.assert_allclose(probabilities(answer), expected, atol=1e-5)
    assert [p.label for p in answer.predictions] == [names[top] for top in expected.argmax(axis=1)]


def test_labels_that_are_numbers_keep_their_numbers(serving: Callable[..., LiveServer]) -> None:
    """Classes called 10, 20 and -3 in scikit-learn are called so here; labels.txt goes before them."""
    node = logistic(classlabels_ints=[10, 20, -3])
    assert list(details(serving(sklearn(node, TensorProto.INT64))).labels) == ["10", "20", "-3"]


def test_a_labels_file_goes_before_the_node_s_labels(serving: Callable[..., LiveServer]) -> None:
    """labels.txt names what the classifier only numbers."""
    node = logistic(classlabels_ints=[0, 1, 2])
    assert list(details(serving(sklearn(node, TensorProto.INT64), labels="a\nb\nc")).labels) == ["a", "b", "c"]


def test_a_forest_of_scikit_learn_is_served(serving: Callable[..., LiveServer]) -> None:
    """A TreeEnsembleClassifier answers with the shares in its leaves."""
    node = helper.make_node(
        "TreeEnsembleClassifier", ["X"], ["label", "probabilities"], domain="ai.onnx.ml", post_transform="NONE",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_values=[0.5, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        nodes_missing_value_tracks_true=[0, 0, 0], nodes_hitrates=[1.0, 1.0, 1.0],
        class_treeids=[0] * 6, class_nodeids=[1, 1, 1, 2, 2, 2], class_ids=[0, 1, 2, 0, 1, 2],
        class_weights=[0.75, 0.25, 0.0, 0.0, 0.5, 0.5], classlabels_int64s=[7, 8, 9],
    )  # fmt: skip
    server = serving(sklearn(node, TensorProto.INT64))
    rows = np.array([[0, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(probabilities(predict(server, rows=rows)), [[0.75, 0.25, 0], [0, 0.5, 0.5]], atol=1e-6)
    assert list(details(server).labels) == ["7", "8", "9"]


# ---- refused, with the cure ----


def _external(folder: Path, location: str) -> onnx.ModelProto:
    """A model whose weights lie in another file, which is there."""
    proto = models.classifier()
    weights = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    return proto


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname"])
def test_no_other_file_is_read_for_a_model(
    serving: Callable[..., LiveServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """A model with external data is refused with the cure, even where the file lies in the server's own folder."""
    monkeypatch.chdir(tmp_path)
    assert (
        "it keeps tensors in another file, and the server reads no file that a model names: save it as one"
        in reason(serving(_external(tmp_path, location)))
    )


def test_external_data_is_found_wherever_it_hides(tmp_path: Path) -> None:
    """In a constant's attribute, in a subgraph's initializer, and with lengths written in unusual ways."""
    from server import graph
    from server.errors import ModelRefused

    tensor = _external(tmp_path, "weights.bin").graph.initializer[0]
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("w", 1, [16, 3])], [tensor])
    branch = helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)
    for node in (constant, branch):
        with pytest.raises(ModelRefused, match="another file"):
            graph.refuse_external_data(models.model([node], [], (4, 4), 3).SerializeToString())
    plain = models.model([constant], [], (4, 4), 3).SerializeToString()
    entry = tensor.external_data[0].SerializeToString()
    assert plain.count(entry) == 1
    at = plain.index(entry)
    assert entry[:2] == b"\x0a\x08"
    odd = b"\x8a\x00\x88\x80\x00" + entry[2:]
    from server.graph import _LOCATION

    assert _LOCATION.search(plain[:at] + odd)
    graph.refuse_external_data(models.classifier().SerializeToString())


def test_a_tensor_called_location_is_no_external_data(serving: Callable[..., LiveServer]) -> None:
    """What only looks like external data is served."""
    proto = models.classifier()
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "location"
    assert predict(serving(proto)).version == 1


def _fixed() -> onnx.ModelProto:
    proto = models.classifier()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return proto


REFUSED: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "a ZipMap": (
        sklearn(logistic(classlabels_ints=[0, 1, 2]), TensorProto.INT64, "zipmap"), "",
        "a sequence of maps (ZipMap); export it without, by convert_sklearn(…, options={'zipmap': False})",
    ),
    "a fixed batch": (_fixed(), "", "must be a symbolic batch axis: export it with one (PyTorch: dynamic_axes"),
    "logits not told": (linear((6,)), "", 'If it is logits, say output = "logits" in model.toml beside it'),
    "one column not told": (
        linear((6,), classes=1, finish="Sigmoid"), "", 'say output = "sigmoid" in model.toml; "logits" if it is',
    ),
    "sigmoid of three": (linear((6,), finish="Sigmoid"), 'output = "sigmoid"', "its output has 3 columns; "),
    "no such output": (linear((6,)), 'output_name = "y"', "has output_name = y; its outputs are probabilities tensor"),
    "the wrong layout": (linear((3, 5, 4)), 'layout = "NHW"', "model.toml says that it is NHW"),
    "the wrong size": (linear((3, 5, 4)), 'layout = "NCHW"\nsize = [9, 9]', "model.toml has size = [9, 9]"),
    "an open size": (linear((3, "H", "W"), flat=60), 'layout = "NCHW"', "say its size = [height, width] in model.toml"),
    "an open size not told": (linear((3, "H", "W"), flat=60), "", "say their layout and size in model.toml beside it"),
    "two means": (linear((3, 5, 4)), 'layout = "NCHW"\nmean = [1, 2]', "2 numbers for mean; the input has 3 channels"),
    "scaled bytes": (models.classifier((3, 5, 4)), 'layout = "NCHW"\nscale = 2', "scale, mean and std only for float"),
    "BGR of grey": (linear((5, 4)), 'layout = "NHW"\ncolours = "BGR"', "its input has 1 channels, not 3"),
    "mean without layout": (linear((6,)), "mean = 1", "model.toml has mean but no layout"),
    "an unknown key": (linear((6,)), "means = 1\nlogits = true", "unknown keys: logits, means; it may have"),
    "an unknown layout": (linear((6,)), 'layout = "CHW"', "model.toml has layout = CHW; it must be NHW, NHWC or NCHW"),
    "an unknown output": (linear((6,)), "output = 1", "has output = 1; it must be probabilities, logits or sigmoid"),
    "a std of nothing": (linear((6,)), 'layout = "NHW"\nstd = 0', "has std = 0; it must be a number over 0"),
    "a scale in words": (linear((6,)), 'layout = "NHW"\nscale = "1/255"', "scale = 1/255; it must be a number over 0"),
    "a mean that is none": (linear((6,)), 'layout = "NHW"\nmean = nan', "mean = nan; it must be a number, or a list"),
    "a size of one": (linear((6,)), 'layout = "NHW"\nsize = 5', "has size = 5; it must be [height, width]"),
    "labels that are numbers": (linear((6,)), "labels = [1, 2, 3]", "it must be a list of strings"),
    "no TOML": (linear((6,)), "output: logits", "model.toml is not TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_with_the_cure(serving: Callable[..., LiveServer], case: str) -> None:
    """The reason names what the file or its model.toml has, what it must be, and where there is one, the cure."""
    proto, toml, words = REFUSED[case]
    server = serving(proto, toml=toml) if toml else serving(proto)
    assert words in reason(server)


def test_two_files_of_labels_must_agree(serving: Callable[..., LiveServer]) -> None:
    """labels.txt and labels in model.toml that differ refuse the version."""
    server = serving(linear((6,)), toml='output = "logits"\nlabels = ["a", "b", "c"]', labels="a\nc\nb")
    assert "labels.txt and model.toml have different labels; keep one of them" in reason(server)
