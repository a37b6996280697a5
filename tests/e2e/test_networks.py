"""The networks of the course, served: what comes back is what a pencil gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import network as nw
from export.card import build_card, to_json
from export.emit import emit
from export.runs import Run
from export.verify import CARD_KEY, TOLERANCE, open_session, run
from export.wire import graph_sha256, with_metadata
from tests.conftest import LiveServer
from tests.e2e.conftest import run_module
from tests.export.conftest import make_metrics
from topclass import Client
from training.networks.hand import NETS, Given, agrees


def exported(name: str, given: Given) -> bytes:
    """The file of a network given by hand: the exporter's own steps, from its weights on, without Keras."""
    net = nw.Network()
    net.output = net.add(nw.Source("", [], (len(given.inputs),)))
    for number, (kernel, biases) in enumerate(given.layers):
        shape = (len(biases),)
        dense = net.add(nw.Dense(f"layer{number}", [net.output], shape, np.array(kernel), np.array(biases)))
        net.output = net.add(nw.Activation(f"sigmoid{number}", [dense], shape, "sigmoid"))
    if len(given.answers) == 1:
        net.output = net.add(nw.BothSides("two_classes", [net.output], (2,)))
    data = emit(net, "features", "table", name).SerializeToString()
    inputs = np.array([given.inputs], np.float32)
    labels = [f"o{number}" for number in range(max(2, len(given.answers)))]
    made = Run(Path("nowhere"), make_metrics((len(given.inputs),), labels, name), inputs, np.zeros(1, np.int64))
    proof: dict[str, Any] = {
        **{"samples": 1, "probes": 0, "batch_sizes": [1], "max_abs_difference": 0.0, "max_rel_difference": 0.0},
        **{"argmax_agreement": 1.0, "tolerance": TOLERANCE, "provider": "CPUExecutionProvider"},
        **{"converter": "topclass", "graph_sha256": graph_sha256(data)},
    }
    card = build_card(made, name, "Raw columns.", proof, run(open_session(data), inputs))
    return with_metadata(data, CARD_KEY, to_json(card))


def said(address: str, name: str, given: Given) -> list[float]:
    """What the server answers to the network's own input: a value for each neuron."""
    with Client(address) as client:
        row = client.predict(np.array([given.inputs], np.float32), name).probabilities[0]
    return [float(value) for value in (row if len(given.answers) > 1 else row[1:])]


@pytest.mark.parametrize("name", NETS)
def test_a_network_given_by_hand_is_served_to_the_digit(
    name: str, tmp_path: Path, serve: Callable[..., LiveServer]
) -> None:
    """The answers of a real server are those worked out by hand, to the last digit written down."""
    path = tmp_path / "models" / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(exported(name, NETS[name]))
    answers = said(serve().address, name, NETS[name])
    assert len(answers) == len(NETS[name].answers)
    assert all(agrees(value, digits) for value, digits in zip(answers, NETS[name].answers, strict=True)), answers


def test_the_hidden_neurons_are_those_of_the_book() -> None:
    """The first layer of the 3-3-3 network gives 0.761, 0.603, 0.650."""
    (kernel, _), _ = NETS["three"].layers
    hidden = 1 / (1 + np.exp(-(np.array(NETS["three"].inputs) @ np.array(kernel))))
    assert all(agrees(value, digits) for value, digits in zip(hidden, ("0.761", "0.603", "0.650"), strict=True))


@pytest.mark.tensorflow
@pytest.mark.e2e
def test_networks_of_every_output_go_the_whole_way(tmp_path: Path, start_server: Callable[[Path], str]) -> None:
    """A step, sigmoids and one sigmoid neuron, each by its command: trained or given, exported, served, asked."""
    runs, models = ["--runs", str(tmp_path / "runs")], ["--models", str(tmp_path / "models")]
    table = "".join(f"{age},{'no' if age < 40 else 'yes'}\n" for age in range(20, 140))
    (tmp_path / "own.csv").write_text(f"age,buys\n{table}")
    commands = [
        ["hand", "--net", "three"],
        ["perceptron", "--data", "and"],
        ["patterns", "--epochs", "4"],
        ["logistic", "--data", str(tmp_path / "own.csv"), "--epochs", "5"],
    ]
    for words in commands:
        folder = run_module("-m", "training", *words, *runs)
        run_module("-m", "export", folder, *models)
    address = start_server(tmp_path / "models")
    answers = said(address, "three-hand", NETS["three"])
    assert all(agrees(value, digits) for value, digits in zip(answers, NETS["three"].answers, strict=True))
    with Client(address) as client:
        truth = client.predict(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), "and-perceptron")
        assert list(truth.top_label) == ["false", "false", "false", "true"]
        assert truth.probabilities.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
        (patterns,) = (tmp_path / "runs" / "patterns-patterns").iterdir()
        test = np.load(patterns / "test.npz")
        told = client.predict(test["inputs"], "patterns-patterns").probabilities.argmax(axis=1)
        stated = json.loads((patterns / "metrics.json").read_text())["metrics"]["test"]["accuracy"]
        assert (told == test["labels"]).mean() == pytest.approx(stated)
        ages = client.predict(np.array([[20], [139]], np.float32), "own-logistic").probabilities
        assert ages[0, 1] < ages[1, 1]
        assert ages.sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.tensorflow
@pytest.mark.e2e
def test_xor_is_told_honestly(tmp_path: Path) -> None:
    """The perceptron on XOR exits with 1 and says that it did not converge."""
    words = ["perceptron", "--data", "xor", "--epochs", "20", "--runs", str(tmp_path)]
    last = run_module("-m", "training", *words, expect=1)
    assert "did NOT converge" in last
