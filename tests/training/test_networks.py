"""Each network of the course: its size, what it takes, and what it learns."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.test_commands import finished, run
from tests.training.test_pictures import put
from training import arguments, augment, data, feed, fit, made, sources
from training.errors import DataError, UsageError
from training.networks import NAMES, faces, find, hand, parts, perceptron


def rows(shape: tuple[int, ...], classes: int, count: int = 20) -> data.Dataset:
    """A dataset of noise: pictures of that shape, or a table."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, *shape)).astype(np.float32)
    if len(shape) > 1:
        inputs = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    part = data.Part(inputs, np.arange(count) % classes)
    names = tuple(f"x{i}" for i in range(shape[0])) if len(shape) == 1 else None
    return data.Dataset("noise", tuple(map(str, range(classes))), part, part, part, "0" * 64, names)


def options(name: str, *words: str) -> Any:
    """Settled flags of a network."""
    return arguments.parse(find(name), ["--data", "x/noise.npz", *words])


SIZES = [
    ("patterns", (7, 7), 3, 150),
    ("softmax", (28, 28), 10, 7_850),
    ("mlp15", (28, 28), 10, 11_935),
    ("mlp16", (28, 28), 10, 13_002),
    ("mlp", (28, 28), 10, 101_770),
    ("lenet", (28, 28), 10, 61_706),
]


@pytest.mark.tensorflow
@pytest.mark.parametrize(("name", "shape", "classes", "parameters"), SIZES)
def test_networks_have_their_sizes(name: str, shape: tuple[int, ...], classes: int, parameters: int) -> None:
    """The number of weights and biases is the one that the course gives."""
    assert find(name).network(rows(shape, classes), options(name)).count_params() == parameters


@pytest.mark.tensorflow
def test_the_cnn_is_small() -> None:
    """Under 150,000 parameters for MNIST, with batch normalization and dropout."""
    model = find("cnn").network(rows((28, 28), 10), options("cnn"))
    assert model.count_params() < 150_000
    assert {"BatchNormalization", "Dropout"} <= {type(layer).__name__ for layer in model.layers}


@pytest.mark.tensorflow
def test_the_cifar_network_is_residual() -> None:
    """It adds what it had to what it made of it, twice, and has 1.65 million parameters."""
    model = find("cifar").network(rows((32, 32, 3), 10), options("cifar"))
    assert [type(layer).__name__ for layer in model.layers].count("Add") == 2
    assert model.count_params() == pytest.approx(1_650_000, rel=0.01)


@pytest.mark.tensorflow
def test_two_classes_under_sigmoid_are_one_neuron() -> None:
    """Sigmoid gives one neuron for a yes or no, and one for each of three classes."""
    assert find("logistic").network(rows((2,), 2), options("logistic")).count_params() - 5 == 3  # 5: the scaling's own
    assert find("patterns").network(rows((7, 7), 3), options("patterns")).output_shape == (None, 3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "leaky_relu"])
def test_the_hidden_layers_are_as_the_flags_say(activation: str) -> None:
    """--hidden, --activation, --slope, --dropout and --batch-norm are what stands between input and output."""
    import keras

    flags = ("--hidden", "5,4", "--activation", activation, "--slope", "0.3", "--dropout", "0.2", "--batch-norm", "yes")
    model = parts.dense(rows((6,), 3), options("mlp", *flags))
    kinds = [type(layer).__name__ for layer in model.layers]
    named = "LeakyReLU" if activation == "leaky_relu" else "Activation"
    assert kinds == ["Normalization", *(["Dense", "BatchNormalization", named, "Dropout"] * 2), "Dense"]
    x = keras.ops.convert_to_tensor([[-1.0]])
    slope = float(model.layers[3](x)[0, 0])
    assert slope == pytest.approx(
        {"sigmoid": 0.26894, "tanh": -0.76159, "relu": 0, "leaky_relu": -0.3}[activation], abs=1e-5
    )


def test_the_perceptron_rule_ends_where_a_line_parts_the_classes() -> None:
    """AND, OR and two clouds end with no mistake, and the line found says every row right."""
    for name in ("and", "or", "separable"):
        contents = made.contents(name)
        part = data.Part(contents.inputs, contents.labels)
        weights, bias, mistakes = perceptron.learn(part, 100, seed=0)
        assert mistakes[-1] == 0
        assert ((part.inputs @ weights + bias > 0) == part.labels).all()


def test_the_perceptron_rule_never_ends_on_xor() -> None:
    """No line parts XOR: after a thousand epochs there are still mistakes."""
    contents = made.contents("xor")
    _, _, mistakes = perceptron.learn(data.Part(contents.inputs, contents.labels), 1000, seed=0)
    assert len(mistakes) == 1000
    assert min(mistakes) > 0


def test_the_perceptron_says_0_at_the_very_border() -> None:
    """w·x + b = 0 is 0, not 1: a neuron that knows nothing yet says 0 to a row of zeros, which is right at once."""
    part = data.Part(np.zeros((1, 2), np.float32), np.array([0]))
    weights, bias, mistakes = perceptron.learn(part, 5, seed=0)
    assert (weights.tolist(), float(bias), mistakes) == ([0, 0], 0, [0])


def test_patterns_are_always_the_same_and_differ_from_each_other() -> None:
    """Two calls give the same 7x7 pictures, a third of each kind; noise makes no two alike."""
    one, two = made.contents("patterns"), made.contents("patterns")
    assert np.array_equal(one.inputs, two.inputs)
    assert one.inputs.shape[1:] == (7, 7)
    assert np.bincount(one.labels).tolist() == [2000, 2000, 2000]
    assert len({row.tobytes() for row in one.inputs}) == 6000


def test_a_truth_table_is_not_split() -> None:
    """Every part of AND is all four rows, and a note says so."""
    dataset = data.load("and")
    assert dataset.sizes == {"train": 4, "validation": 4, "test": 4}
    assert dataset.notes == ("these rows are all there are: every part is all of them",)


def test_a_test_part_can_be_held_out_of_training(tmp_path: Path) -> None:
    """--test-rows takes the test from the training rows, every class its share, and keeps the file's own beside it."""
    pictures = np.random.default_rng(0).integers(0, 256, (130, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(130) % 10
    np.savez(
        tmp_path / "cifar10.npz",
        x_train=pictures[:120],
        y_train=labels[:120],
        x_test=pictures[120:],
        y_test=labels[120:],
    )
    dataset = data.load("cifar10", tmp_path, held_out=data.HeldOut(test_rows=30))
    assert np.bincount(dataset.test.labels).tolist() == [3] * 10
    assert dataset.official is not None
    assert np.array_equal(dataset.official.inputs, pictures[120:])
    assert dataset.sizes["train"] + dataset.sizes["validation"] == 90


def test_insurance_wants_its_file(tmp_path: Path) -> None:
    """The data of the course are not ours to hand on: the line says which file is looked for."""
    with pytest.raises(DataError, match=r"insurance is read from insurance_data\.csv in a --data-dir"):
        sources.contents("insurance", tmp_path, sources.AS_IT_IS)
    (tmp_path / "insurance_data.csv").write_text("age,affordibility,bought_insurance\n22,1,0\n47,1,1\n")
    contents = sources.contents("insurance", tmp_path, sources.AS_IT_IS)
    assert (contents.names, contents.labels.tolist()) == (("no", "yes"), [0, 1])


def test_each_network_refuses_what_it_cannot_learn_from() -> None:
    """Tables for convolutions, three classes for faces, pictures for a perceptron: one line each, and what would do."""
    table, pictures, three = rows((3,), 2), rows((28, 28), 2), rows((28, 28), 3)
    for name in ("lenet", "cnn", "cifar", "faces"):
        with pytest.raises(DataError, match=r"noise is a table; .* expects pictures"):
            find(name).check(table, None)
    with pytest.raises(DataError, match="noise has 3 classes; faces answers yes or no and expects 2"):
        faces.RECIPE.check(three, None)
    with pytest.raises(DataError, match="noise is pictures of 2 classes; expected a table of two classes"):
        find("perceptron").check(pictures, None)
    with pytest.raises(DataError, match="pictures of 28x28; x expects 32x32 or more"):
        parts.pictures_only("x", 32)(pictures, None)


def test_digits_written_down_are_met_to_the_last() -> None:
    """0.7086 is 0.709 rounded and 0.708 cut short; 0.7094 is neither 0.708 nor 0.7100."""
    assert hand.agrees(0.7086, "0.708")
    assert hand.agrees(0.7086, "0.709")
    assert not hand.agrees(0.7094, "0.708")
    assert not hand.agrees(0.7094, "0.7100")


def test_targets_fit_the_loss() -> None:
    """Labels for the sparse loss, one-hot rows for the others, and one column of 0 and 1 for one neuron."""
    labels = np.array([0, 2, 1])
    assert feed.targets(labels, "sparse_categorical_crossentropy", 3).tolist() == [0, 2, 1]
    assert feed.targets(labels, "mse", 3).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert feed.targets(np.array([0, 1]), "binary_crossentropy", 1).tolist() == [[0], [1]]


def test_rare_classes_can_count_more() -> None:
    """Balanced weights are scikit-learn's; none are all 1."""
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [2])
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert feed.class_weights(labels, 3, "balanced") == pytest.approx(balanced)
    assert feed.class_weights(labels, 3, "none").tolist() == [1, 1, 1]


@pytest.mark.tensorflow
def test_the_feed_shows_every_row_once_an_epoch_in_an_order_of_the_epoch() -> None:
    """Two epochs have two orders of the same rows, and a second feed gives the same two."""
    dataset, settled = rows((3,), 2), options("mlp", "--batch-size", "8")
    seen = []
    for _ in range(2):
        rows_fed = feed.Feed(dataset, settled, 2, None)
        for epoch in range(2):
            rows_fed.epoch = epoch
            batches = [batch[0].numpy() for batch in rows_fed.dataset()]
            assert [len(batch) for batch in batches] == [8, 8, 4]
            seen.append(np.concatenate(batches))
    assert np.array_equal(seen[0], seen[2])
    assert np.array_equal(seen[1], seen[3])
    assert not np.array_equal(seen[0], seen[1])
    assert np.array_equal(np.sort(seen[0], axis=0), np.sort(dataset.train.inputs, axis=0))


@pytest.mark.tensorflow
def test_pictures_are_varied_as_asked() -> None:
    """No change is no change; a shift moves whole pixels, a mirror turns left and right, a square covers its part."""
    pictures = np.random.default_rng(0).integers(1, 256, (40, 9, 9), dtype=np.uint8)

    def vary(**how: Any) -> np.ndarray:
        return np.asarray(augment.Augmentation(**how).build((9, 9))(pictures, np.array([0, 1])))

    assert np.array_equal(vary(), pictures)
    moved = vary(shift=1)
    moves = {(int((row == 0).all(axis=1).any()), int((row == 0).all(axis=0).any())) for row in moved}
    assert moves == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(np.isin(row, [*np.unique(picture), 0]).all() for row, picture in zip(moved, pictures, strict=True))
    mirrored = vary(mirror=True)
    turned = [np.array_equal(row, picture[:, ::-1]) for row, picture in zip(mirrored, pictures, strict=True)]
    same = [np.array_equal(row, picture) for row, picture in zip(mirrored, pictures, strict=True)]
    assert any(turned)
    assert any(same)
    assert all(a or b for a, b in zip(turned, same, strict=True))
    covered = vary(cut=4)
    assert {int((row != picture).sum()) for row, picture in zip(covered, pictures, strict=True)} <= set(range(1, 26))


def test_only_pictures_are_varied() -> None:
    """--augment on a table, or on a network without an augmentation, is refused."""
    from training import story

    with pytest.raises(UsageError, match="--augment varies pictures, and noise is a table"):
        story.augmentation(find("mlp"), rows((3,), 2), options("mlp", "--augment", "yes"))
    with pytest.raises(UsageError, match="softmax has no augmentation of its own"):
        story.augmentation(find("softmax"), rows((8, 8), 2), options("softmax", "--augment", "yes"))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--label", "kind"], "--label names a column of a CSV, and --data is digits"),
        (["--size", "8x8"], "--size and --channels are for a folder of pictures, and --data is digits"),
        (["--channels", "1", "--data", "a/b.npz"], "--size and --channels are for a folder of pictures"),
    ],
)
def test_a_flag_that_the_data_have_no_use_for_is_refused(words: list[str], fault: str) -> None:
    """What would be passed over in silence is a usage error instead."""
    with pytest.raises(UsageError, match=fault):
        data.from_options(arguments.parse(find("mlp"), words))


def test_one_neuron_has_no_categorical_loss() -> None:
    """A categorical loss on one output neuron is refused with the losses that would do; on several it is taken."""
    settled = options("mlp", "--output", "sigmoid", "--loss", "categorical_crossentropy")
    with pytest.raises(UsageError, match="has one output neuron; expected binary_crossentropy, mse or mae"):
        fit.loss(settled, 1)
    assert fit.loss(settled, 3) == "categorical_crossentropy"


@pytest.mark.tensorflow
def test_schedules_fall_as_they_say() -> None:
    """Over ten steps: cosine to 0, exponential to a hundredth, steps to a tenth and a hundredth; warmup rises."""

    def rates(*words: str) -> list[float]:
        rate = fit.optimizer(options("mlp", "--epochs", "10", "--learning-rate", "1", *words), 1)._learning_rate
        return [float(rate(step)) if callable(rate) else float(rate) for step in range(11)]

    assert rates("--schedule", "constant")[10] == 1
    assert rates()[5] == pytest.approx(0.5)
    assert rates()[10] == pytest.approx(0, abs=1e-6)
    assert rates("--schedule", "exponential")[10] == pytest.approx(0.01)
    assert [rates("--schedule", "steps")[step] for step in (5, 6, 8)] == pytest.approx([1, 0.1, 0.01])
    warm = rates("--warmup", "4")
    assert (warm[0], warm[2], warm[4]) == pytest.approx((0, 0.5, 1))


@pytest.mark.tensorflow
def test_the_optimizers_are_those_asked_for() -> None:
    """SGD has its momentum, AdamW its decay, and Adam neither."""
    sgd = fit.optimizer(options("mlp", "--optimizer", "sgd", "--momentum", "0.9"), 5)
    assert (type(sgd).__name__, sgd.momentum) == ("SGD", 0.9)
    adamw = fit.optimizer(options("mlp", "--optimizer", "adamw", "--weight-decay", "0.1"), 5)
    assert (type(adamw).__name__, adamw.weight_decay) == ("AdamW", 0.1)
    assert type(fit.optimizer(options("mlp"), 5)).__name__ == "Adam"


@pytest.mark.tensorflow
def test_leaving_one_out_is_measured_on_rows_not_seen(tmp_path: Path) -> None:
    """Of twelve rows the one labelled against all others is wrong: no network that answers for it has seen it."""
    ages = [20, 22, 24, 26, 28, 30, 50, 52, 54, 56, 58, 60]
    lines = "".join(f"{age},{'no' if age < 40 and age != 20 else 'yes'}\n" for age in ages)
    (tmp_path / "own.csv").write_text(f"age,buys\n{lines}")
    folder, metrics = finished(
        run(
            "training",
            tmp_path,
            "logistic",
            "--data",
            str(tmp_path / "own.csv"),
            "--epochs",
            "60",
            "--batch-size",
            "all",
        )
    )
    assert metrics["metrics"]["test"]["rows"] == 12
    assert metrics["metrics"]["test"]["confusion"][1][0] >= 1
    assert metrics["recipe"] == "training.logistic"
    assert len(np.load(folder / "samples.npz")["labels"]) == 12


@pytest.mark.tensorflow
def test_faces_learns_from_two_folders(tmp_path: Path) -> None:
    """Bright and dark squares in two folders: one sigmoid output tells them apart, and the folders name the classes."""
    rng = np.random.default_rng(0)
    for number in range(40):
        for kind in ("no", "yes"):
            path = put(tmp_path / "pictures" / kind / f"{number}.png", (16, 16))
            level = rng.integers(150, 250) if kind == "yes" else rng.integers(5, 100)
            Image.fromarray(rng.integers(level - 5, level + 5, (16, 16, 3), dtype=np.uint8)).save(path)
    quick = ("--epochs", "6", "--target", "0.9", "--learning-rate", "0.01")
    folder, metrics = finished(run("training", tmp_path, "faces", "--data", str(tmp_path / "pictures"), *quick))
    assert metrics["labels"] == ["no", "yes"]
    assert metrics["model"] == "pictures-faces"
    assert json.loads((folder / "environment.json").read_text())["command"].startswith(
        "python -m training faces --data"
    )


def test_every_network_is_documented() -> None:
    """docs/training.md has a row for each network."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"| `{name}` |" not in page] == []


MIRRORED = """
import sys
import tensorflow as tf

(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
from training import command

sys.exit(command.main("mlp", sys.argv[1:]))
"""


@pytest.mark.tensorflow
def test_a_batch_is_shared_by_two_devices(tmp_path: Path) -> None:
    """--strategy mirrored trains on two devices (here: two halves of the processor), and what is written has one."""
    flags = ["--limit", "250", "--epochs", "2", "--runs", str(tmp_path), "--strategy", "mirrored"]
    for batch, status, words in (
        ("32", 0, "note: the batch is shared by 2 device(s)"),
        ("33", 2, "error: batches of 33 rows cannot be shared evenly by 2 devices; give a --batch-size"),
    ):
        line = [sys.executable, "-c", MIRRORED, *flags, "--batch-size", batch]
        done = subprocess.run(line, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert words in done.stderr


@pytest.mark.tensorflow
def test_half_precision_is_written_as_float32(tmp_path: Path) -> None:
    """--precision mixed_bfloat16 trains, and the model on the disk computes in float32, as the exporter wants it."""
    import keras

    quick = ("--limit", "200", "--epochs", "1")
    folder, _ = finished(run("training", tmp_path, "mlp", *quick, "--precision", "mixed_bfloat16"))
    model = keras.saving.load_model(folder / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
