"""The temperature inside the graph, and the score of strangeness as its second output: both proven against Keras."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.errors import ExportError, FileFormatError, ParityError, RunError
from export.names import SCORE
from export.verify import Row, compare, open_session, read_card, run, verify_file

from .conftest import edit_metrics, make_inputs, proven_bytes, write_run
from .networks import shake
from .test_verify import with_card

pytestmark = pytest.mark.tensorflow


def write_score(folder: Path, size: int, layer: str, pooled: bool = False, **arrays: Any) -> None:
    """Put a score of random numbers into a run folder, as training does."""
    random = np.random.default_rng(0)
    found = {"mean": random.normal(0, 0.1, size), "whiten": random.normal(0, 1, (size, size)),
             "centers": random.normal(0, 1, (3, size))} | arrays  # fmt: skip
    np.savez(folder / "ood.npz", **{key: value for key, value in found.items() if value is not None})
    stated = {"threshold": 1.0, "layer": layer, "pooled": pooled, "method": "a distance", "accepted": {"test": 0.9}}
    edit_metrics(folder, lambda metrics: metrics.update(out_of_distribution=stated))


def exported(folder: Path) -> Any:
    """The run, exported."""
    from export.pipeline import export_run

    return export_run(folder)


def cnn(keras: Any) -> Any:
    """A picture network whose last layer reads a flattened picture, through a dropout."""
    layers = keras.layers
    return shake(
        keras.Sequential(
            [
                keras.Input((9, 8)),
                layers.Rescaling(1 / 255),
                layers.Reshape((9, 8, 1)),
                layers.Conv2D(6, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.MaxPooling2D(),
                layers.ReLU(name="seen"),
                layers.Flatten(),
                layers.Dropout(0.5),
                layers.Dense(4, activation="softmax"),
            ]
        )
    )


def by_definition(features: np.ndarray, folder: Path) -> np.ndarray:
    """The score [n] of features [n,F], by its definition."""
    found = np.load(folder / "ood.npz")
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    places = (units - found["mean"]) @ found["whiten"]
    return np.array([min(((place - center) ** 2).sum() for center in found["centers"]) for place in places])


def test_a_score_of_pooled_pictures_is_the_second_output(tmp_path: Path, keras: Any) -> None:
    """ood_score is the distance that training defined, of the mean over places; the card says what it was proven by."""
    model = cnn(keras)
    folder = write_run(tmp_path / "run", model, 4)
    write_score(folder, 6, "seen", pooled=True)
    done = exported(folder)
    inputs = make_inputs((9, 8), 20, seed=9)
    pictures = keras.Model(model.inputs[0], model.get_layer("seen").output)(inputs.astype(np.float32))
    expected = by_definition(np.asarray(pictures, np.float64).mean(axis=(1, 2)), folder)
    given = run(open_session(done.data), inputs, SCORE)
    assert given.shape == (20,)
    assert given == pytest.approx(expected, rel=1e-4)
    assert done.card["certificate"]["max_ood_difference"] < 1e-5
    assert done.card["out_of_distribution"]["threshold"] == 1.0
    assert len(done.card["golden"]["ood_scores"]) == len(done.card["golden"]["probabilities"])


def test_a_score_of_a_hidden_layer_is_the_second_output(run_folder: Path, keras: Any) -> None:
    """For a network of Dense layers it is of what the last one reads; probabilities stay what they were."""
    before = exported(run_folder)
    model = keras.models.load_model(run_folder / "model.keras")
    hidden = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-2]
    write_score(run_folder, hidden.units, hidden.name)
    done = exported(run_folder)
    inputs = make_inputs(tuple(model.inputs[0].shape[1:]), 10)
    sessions = [open_session(each.data) for each in (before, done)]
    assert [output.name for output in sessions[1].get_outputs()] == ["probabilities", SCORE]
    assert run(sessions[1], inputs) == pytest.approx(run(sessions[0], inputs), abs=1e-6)
    features = keras.Model(model.inputs[0], hidden.output)(inputs.astype(np.float32))
    assert run(sessions[1], inputs, SCORE) == pytest.approx(
        by_definition(np.asarray(features, np.float64), run_folder), rel=1e-4
    )


def test_a_dead_row_has_a_finite_score(tmp_path: Path, keras: Any) -> None:
    """Features that are all 0 have no direction; their score is a number, the same by Keras and by the graph."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "relu", name="h"), keras.layers.Dense(2, activation="softmax")]
    )
    model.layers[0].set_weights([np.ones((3, 4)), np.full(4, -1000.0)])
    folder = write_run(tmp_path / "run", model, 2)
    write_score(folder, 4, "h")
    scores = run(open_session(exported(folder).data), make_inputs((3,), 5), SCORE)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("temperature", [0.3, 1.7, 5.0])
@pytest.mark.parametrize("name", ["mlp", "logits"])
def test_the_temperature_is_folded_into_the_last_layer(
    tmp_path: Path, keras: Any, temperature: float, name: str
) -> None:
    """Served probabilities are softmax(logits / T), without a node more, whether Keras ends in a softmax or logits."""
    layers = keras.layers
    last = layers.Dense(5, activation="softmax" if name == "mlp" else None)
    model = shake(keras.Sequential([keras.Input((6,)), layers.Dense(7, "tanh"), last]))
    folder = write_run(tmp_path / "run", model, 5)
    plain = exported(folder)
    edit_metrics(folder, lambda metrics: metrics.update(calibration={"fitted": True, "temperature": temperature}))
    done = exported(folder)
    inputs = make_inputs((6,), 30)
    logits = np.log(run(open_session(plain.data), inputs).astype(np.float64)) / temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert run(open_session(done.data), inputs) == pytest.approx(expected, abs=1e-5)
    counts = [len(onnx.load_from_string(each.data).graph.node) for each in (plain, done)]
    assert counts[0] == counts[1]
    assert done.card["calibration"] == {"fitted": True, "temperature": temperature}


def test_a_graph_by_tf2onnx_has_the_temperature_and_no_score(tmp_path: Path, keras: Any) -> None:
    """Where a layer is unknown the temperature is traced with the rest; the score is left out, and the card says so."""
    given = keras.Input((4,))
    hidden = keras.layers.Dense(5, "relu", name="h")(given)
    model = shake(keras.Model(given, keras.layers.Dense(3, activation="softmax")(hidden * 2.0)))
    folder = write_run(tmp_path / "run", model, 3)
    write_score(folder, 5, "h")
    edit_metrics(folder, lambda metrics: metrics.update(calibration={"fitted": True, "temperature": 2.0}))
    done = exported(folder)
    assert done.conversion.converter == "tf2onnx"
    assert done.card["out_of_distribution"]["threshold"] is None
    assert "tf2onnx" in done.card["out_of_distribution"]["reason"]
    assert "ood_scores" not in done.card["golden"]
    inputs = make_inputs((4,), 10)
    answers = np.asarray(model(inputs), np.float64) ** 0.5
    assert run(open_session(done.data), inputs) == pytest.approx(answers / answers.sum(axis=1, keepdims=True), abs=1e-5)


BROKEN = {
    "no ood.npz": (lambda folder: (folder / "ood.npz").unlink(), "ood.npz cannot be read"),
    "rubbish": (lambda folder: (folder / "ood.npz").write_bytes(b"rubbish"), "ood.npz cannot be read"),
    "no centers": (lambda folder: write_score(folder, 6, "seen", True, centers=None), "ood.npz cannot be read"),
    "another size": (lambda folder: write_score(folder, 5, "seen", True), "is of 5 features, but the last Dense layer"),
    "a flat matrix": (lambda folder: write_score(folder, 6, "seen", True, whiten=np.ones(6)), "is no score: expected"),
    "NaN": (lambda folder: write_score(folder, 6, "seen", True, mean=np.full(6, np.nan)), "is no score: expected"),
    "no such layer": (lambda folder: write_score(folder, 6, "gone", True), "reads layer 'gone', which the Keras"),
    "another threshold": (
        lambda folder: edit_metrics(folder, lambda metrics: metrics["out_of_distribution"].update(threshold=3)),
        "threshold of 3; expected 1",
    ),
    "a temperature of 0": (
        lambda folder: edit_metrics(folder, lambda metrics: metrics.update(calibration={"temperature": 0})),
        "a temperature of 0; expected a number over 0",
    ),
    "a calibration of words": (
        lambda folder: edit_metrics(folder, lambda metrics: metrics.update(calibration="warm")),
        "no proper 'calibration'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_score_or_temperature_is_one_line(tmp_path: Path, keras: Any, case: str) -> None:
    """RunError says what is wrong in the run folder; nothing is exported without what the run says it has."""
    folder = write_run(tmp_path / "run", cnn(keras), 4)
    write_score(folder, 6, "seen", pooled=True)
    spoil, words = BROKEN[case]
    spoil(folder)
    with pytest.raises(RunError, match=words) as caught:
        exported(folder)
    assert "\n" not in str(caught.value)


def test_a_temperature_for_a_lone_sigmoid_is_refused(tmp_path: Path, keras: Any) -> None:
    """A network of one sigmoid has no softmax to divide before; training fits none there, and export takes none."""
    model = shake(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")]))
    folder = write_run(tmp_path / "run", model, 2)
    edit_metrics(folder, lambda metrics: metrics.update(calibration={"temperature": 2.0}))
    with pytest.raises(ExportError, match="a temperature of 2 is for networks that end in a softmax"):
        exported(folder)


def test_a_score_that_differs_is_no_twin(tmp_path: Path, keras: Any) -> None:
    """A score off by a thousandth is a ParityError that names the row; so is NaN, and a wrong golden score."""
    folder = write_run(tmp_path / "run", cnn(keras), 4)
    write_score(folder, 6, "seen", pooled=True)
    done = exported(folder)
    inputs = make_inputs((9, 8), 12)
    session = open_session(done.data)
    rows = [Row(f"sample {place}", each) for place, each in enumerate(inputs)]
    answers, scores = run(session, inputs), run(session, inputs, SCORE).astype(np.float64)
    assert compare(done.data, rows, answers, scores)["max_ood_difference"] < 1e-5
    for wrong in (scores[7] * 1.001 + 0.001, np.nan):
        off = scores.copy()
        off[7] = wrong
        with pytest.raises(ParityError, match=r"out-of-distribution scores .* on sample 7 at batch size 1"):
            compare(done.data, rows, answers, off)
    card = read_card(done.data)
    card["golden"]["ood_scores"][1] += 0.5
    with pytest.raises(ParityError, match="golden input 1 gives an out-of-distribution score that is off"):
        verify_file(with_card(done.data, card))
    del card["golden"]["ood_scores"]
    with pytest.raises(FileFormatError, match=r"no golden\.ood_scores"):
        verify_file(with_card(done.data, card))


def test_a_promised_score_that_is_not_there_is_refused() -> None:
    """A card with a threshold on a graph without the output: verify says so."""
    card = json.loads(json.dumps(read_card(proven_bytes())))
    card["out_of_distribution"] = {"threshold": 1.0}
    with pytest.raises(FileFormatError, match="ood_score"):
        verify_file(with_card(proven_bytes(), card))
