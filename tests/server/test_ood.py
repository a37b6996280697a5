"""Models that say how unlike their training data an input is: one more output, its threshold, and what replies say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from server.device import Devices
from server.errors import ModelRefused
from server.model import Model, load
from server.predictions import out_of_distribution
from tests import models
from tests.conftest import LiveServer
from tests.server import open_inference as v2
from tests.server.test_predict import pictures, probabilities, tensor
from topclass.v1 import inference_pb2 as pb

CPU = Devices()
THRESHOLD = 128.0


def wrong(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    """A scored model whose graph was changed before its card was written."""
    proto = models.scored()
    card = proto.metadata_props[0].value
    del proto.metadata_props[:]
    before = proto.SerializeToString()
    change(proto)
    sha256 = [hashlib.sha256(data).hexdigest() for data in (before, proto.SerializeToString())]
    helper.set_model_props(proto, {"topclass.card": card.replace(*sha256)})
    return proto


def no_output(proto: onnx.ModelProto) -> None:
    """The score is computed, and not given."""
    del proto.graph.output[1]


def a_column(proto: onnx.ModelProto) -> None:
    """The score is [N, 1]."""
    proto.graph.node[-1].attribute[1].i = 1
    proto.graph.output[1].type.tensor_type.shape.dim.add().dim_value = 1


@pytest.mark.parametrize("count", [1, 3, 1000])
@pytest.mark.parametrize("top_k", [0, 2])
def test_each_prediction_says_its_score_and_whether_it_is_strange(
    repository: Path, serve: Callable[..., LiveServer], count: int, top_k: int
) -> None:
    """ood_score is the graph's second output, row by row; out_of_distribution says whether it is over the threshold."""
    models.put(repository, "careful", 1, models.scored(THRESHOLD))
    server, rows = serve(models=repository), pictures(count)
    request = pb.PredictRequest(model="careful", tensor=tensor(rows), top_k=top_k)
    response = server.stub.Predict(request)
    means = rows.mean(axis=(1, 2))
    np.testing.assert_allclose(probabilities(response), models.expected(rows), atol=1e-6)
    np.testing.assert_allclose([p.ood_score for p in response.predictions], means, rtol=1e-5)
    assert [p.out_of_distribution for p in response.predictions] == [p.ood_score > 128 for p in response.predictions]
    assert [len(p.top_k) for p in response.predictions] == [top_k] * count


def test_a_model_that_measures_nothing_says_no_score(server: LiveServer) -> None:
    """Without a threshold in the card the field is absent, and nothing is called strange."""
    response = server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(2))))
    assert [(p.HasField("ood_score"), p.out_of_distribution) for p in response.predictions] == [(False, False)] * 2


def test_a_card_may_say_that_there_is_no_score() -> None:
    """A threshold of null, with its reason, is a model without a score, even if its graph has that output."""
    model = Model(models.scored(out_of_distribution={"threshold": None, "reason": "x"}).SerializeToString(), CPU)
    assert not model.scored
    assert model.compute(pictures(5)).shape == (5, 3)
    scored = Model(models.scored().SerializeToString(), CPU)
    assert scored.compute(pictures(5)).shape == (5, 4)
    np.testing.assert_allclose(scored.probabilities(pictures(5)), models.expected(pictures(5)), atol=1e-6)


@pytest.mark.parametrize("change", [no_output, a_column])
def test_a_threshold_without_its_output_is_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    """A card that promises a score needs a graph that gives it, as float [N]."""
    with pytest.raises(ModelRefused, match=r"it must have an output ood_score, float \[N\]"):
        Model(wrong(change).SerializeToString(), CPU)


def test_golden_scores_that_are_off_refuse_the_model(tmp_path: Path) -> None:
    """The golden test covers the second output: a graph that scores otherwise than its exporter is not served."""
    card = json.loads(models.scored().metadata_props[0].value)
    card["golden"]["ood_scores"][1] *= 1.01
    path = models.put(tmp_path, "careful", 1, models.scored(golden=card["golden"]))
    with pytest.raises(ModelRefused, match=r"its golden samples are off by 0\.0099 on"):
        load(path, CPU)


def test_a_score_that_is_no_number_is_strange() -> None:
    """NaN and infinity are over every threshold; the threshold itself is not."""
    scores = np.array([np.nan, np.inf, 1.0, np.nextafter(np.float32(1), 2), -np.inf], np.float32)
    assert out_of_distribution(scores, 1.0).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("count", [1, 3])
def test_the_fields_protocol_says_it_in_parameters(
    repository: Path, serve: Callable[..., LiveServer], count: int
) -> None:
    """ModelInfer's reply carries each row's score and verdict, 1 or 0, and the threshold; its tensor stays [N, C]."""
    models.put(repository, "careful", 1, models.scored(THRESHOLD))
    server, rows = serve(models=repository), pictures(count)
    reply = v2.call(server, "ModelInfer", v2.infer(rows, model_name="careful"))
    assert v2.probabilities(reply).shape == (count, 3)
    means = rows.mean(axis=(1, 2))
    scores = [float(score) for score in reply.parameters["ood_score"].string_param.split(",")]
    np.testing.assert_allclose(scores, means, rtol=1e-5)
    verdicts = reply.parameters["out_of_distribution"].string_param
    assert verdicts == ",".join("01"[int(mean > THRESHOLD)] for mean in means)
    assert reply.parameters["ood_threshold"].double_param == THRESHOLD
    plain = v2.call(server, "ModelInfer", v2.infer(rows))
    assert not {"ood_score", "out_of_distribution", "ood_threshold"} & set(plain.parameters)
