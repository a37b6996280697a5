"""The flags: what is settled by the data, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from training import arguments, knobs, mlp
from training.networks import NAMES, find


def parsed(*words: str, network: str = "mlp") -> dict[str, Any]:
    """The settled arguments of a network for these words."""
    return vars(arguments.parse(find(network), words))


def test_defaults_come_from_the_data() -> None:
    """Digits brings its measured epochs, batch size and target; the name joins data and recipe."""
    settled = parsed()
    assert (settled["epochs"], settled["batch_size"], settled["target"]) == (30, 32, 0.96)
    assert settled["name"] == "digits-mlp"


def test_a_quick_try_has_no_target() -> None:
    """--limit or --epochs drop the known target, which belongs to the whole recipe; a given one stays."""
    assert parsed("--limit", "10")["target"] is None
    assert parsed("--epochs", "1")["target"] is None
    assert parsed("--epochs", "1", "--target", "0.5")["target"] == 0.5


def test_a_path_gives_the_name_by_its_stem() -> None:
    """--data some/cats.npz becomes the model cats-mlp, without a target."""
    settled = parsed("--data", "some/cats.npz")
    assert (settled["name"], settled["target"], settled["epochs"]) == ("cats-mlp", None, 20)


def test_the_data_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOPCLASS_DATA stands in for --data-dir, and is checked like it."""
    monkeypatch.setenv("TOPCLASS_DATA", str(tmp_path))
    assert parsed()["data_dir"] == tmp_path
    monkeypatch.setenv("TOPCLASS_DATA", str(tmp_path / "gone"))
    with pytest.raises(SystemExit) as end:
        parsed()
    assert end.value.code == 2


REFUSED = {
    "--epochs 0": "argument --epochs: '0' is not a whole number of at least 1",
    "--batch-size many": "argument --batch-size: 'many' is not 'all' or a whole number of at least 1",
    "--learning-rate 0": "argument --learning-rate: '0' is not a number greater than 0",
    "--learning-rate nan": "argument --learning-rate: 'nan' is not a number greater than 0",
    "--dropout 1": "argument --dropout: '1' is not a number from 0 to less than 1",
    "--target 97": "argument --target: '97' is not an accuracy from 0 to 1",
    "--seed -1": "argument --seed: '-1' is not a whole number from 0 to 4294967295",
    "--hidden 0": "argument --hidden: '0' is not a whole number of at least 1",
    "--name a/b": "'a/b' (--name) is no model name: expected letters, digits",
    "--name .hidden": "'.hidden' (--name) is no model name",
    "--data x/my#cats.npz": "'my#cats-mlp' (from --data; give a --name) is no model name",
    "--data=": "unknown dataset '': expected digits",
    "--data mnits": "or the path of an .npz, a .csv or a folder; did you mean mnist?",
    "--hidden 16,,3": "argument --hidden: '' is not a whole number of at least 1, in '16,,3'",
    "--size 32": "argument --size: '32' is not HEIGHTxWIDTH in pixels, as in 32x32",
    "--size 0x4": "'0x4' is not HEIGHTxWIDTH in pixels",
    "--channels 2": "argument --channels: '2' is not one of 1, 3",
    "--activation swish": "argument --activation: 'swish' is not one of sigmoid, tanh, relu, leaky_relu",
    "--momentum 0.9": "--momentum is a part of sgd; give --optimizer sgd with it",
    "--optimizer sgd --weight-decay 0.1": "--weight-decay is a part of adamw; give --optimizer adamw with it",
    "--schedule steps --warmup 2": "--warmup goes before a cosine; --schedule is steps",
    "--epochs 3 --warmup 3": "--warmup 3 leaves no epoch of 3 to learn in",
    "--net two": "unrecognized arguments: --net two",
    "--data-dir nowhere": "argument --data-dir: 'nowhere' is no folder",
    "--epoch 3": "unrecognized arguments: --epoch 3",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items(), ids=REFUSED)
def test_a_wrong_flag_is_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mistake on the command line ends with status 2 and one line that names it."""
    with pytest.raises(SystemExit) as end:
        mlp.main(words.split())
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_run_can_be_repeated_from_its_arguments() -> None:
    """The command line made from settled arguments settles to the same arguments, for every network."""
    for name in NAMES:
        own = ["--net", "three"] if name == "hand" else ["--data", "a b.npz", "--limit", "7"]
        words = ["--name", "ab", *own]
        first = parsed(*words, network=name)
        settled = arguments.as_json(arguments.parse(find(name), words))
        line = arguments.command(f"training.{name}", settled)
        assert line.startswith(f"python -m training {name} ")
        again = [f"--{key.replace('_', '-')}={value}" for key, value in settled.items() if value is not None]
        assert parsed(*again, network=name) == first


def test_what_changes_no_weight_is_not_written_down() -> None:
    """Seeds, trackers and --fresh are how a run was made, not what it is."""
    settled = arguments.as_json(arguments.parse(find("mlp"), ["--seeds", "3", "--tensorboard", "--mlflow", "--fresh"]))
    assert {"seeds", "fresh", "tensorboard", "mlflow", "offered"} & set(settled) == set()


@pytest.mark.parametrize("name", NAMES)
def test_help_has_one_line_for_each_flag_within_80_columns(name: str) -> None:
    """Each flag stands on one line with its words, under the heading of its group, and no line is too long."""
    recipe = find(name)
    lines = arguments.parser(recipe).format_help().splitlines()
    assert max(map(len, lines)) <= arguments.WIDTH
    for knob in knobs.KNOBS:
        of_it = [line for line in lines if line.startswith(f"  {knob.flag} ")]
        assert len(of_it) == recipe.offers(knob)
    described = [line for line in lines if line.startswith("  -")]
    assert all("  " in line.strip() for line in described)
    assert not [line for line in lines if line.startswith("     ")], "a description went on to a second line"
    assert {f"{knobs.GROUPS[knob.group]}:" for knob in knobs.KNOBS if recipe.offers(knob)} <= set(lines)


def test_a_loss_goes_with_the_output() -> None:
    """Softmax brings the sparse categorical cross-entropy, sigmoid the binary one; a given one stays."""
    assert parsed()["loss"] == "sparse_categorical_crossentropy"
    assert parsed("--output", "sigmoid")["loss"] == "binary_crossentropy"
    assert parsed("--output", "sigmoid", "--loss", "mse")["loss"] == "mse"


def test_a_learning_rate_goes_with_the_optimizer() -> None:
    """A rate measured with Adam is not taken over to SGD; a given one is taken with any."""
    assert parsed()["learning_rate"] == 2e-3
    assert parsed("--optimizer", "sgd")["learning_rate"] == knobs.OPTIMIZERS["sgd"]
    assert parsed("--optimizer", "sgd", "--learning-rate", "3")["learning_rate"] == 3


def test_any_other_network_has_no_known_accuracy() -> None:
    """A flag that changes what is learnt drops the known target; one that does not, such as --seeds, keeps it."""
    assert parsed("--hidden", "16,16")["target"] is None
    assert parsed("--seeds", "3", "--seed", "4", "--fresh")["target"] == 0.96


def test_faces_wants_a_folder() -> None:
    """Without --data there is nothing to tell apart, and the line says what would do."""
    with pytest.raises(SystemExit):
        parsed(network="faces")
