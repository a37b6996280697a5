"""The flags: what is settled by the data, and what is refused."""

from pathlib import Path

import pytest

from training import arguments, mlp

MEASURED = {"digits": arguments.Defaults(30, 32, 0.96), "": arguments.Defaults(20, 64)}


def parsed(*words: str) -> dict[str, object]:
    """The settled arguments of training.mlp for these words."""
    flags = arguments.parser("training.mlp", "x", learning_rate=0.002, dropout=0.1)
    return vars(arguments.parse(flags, "training.mlp", MEASURED, words))


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
    "--batch-size many": "argument --batch-size: 'many' is not a whole number of at least 1",
    "--learning-rate 0": "argument --learning-rate: '0' is not a number greater than 0",
    "--learning-rate nan": "argument --learning-rate: 'nan' is not a number greater than 0",
    "--dropout 1": "argument --dropout: '1' is not a number from 0 to less than 1",
    "--target 97": "argument --target: '97' is not an accuracy from 0 to 1",
    "--seed -1": "argument --seed: '-1' is not a whole number from 0 to 4294967295",
    "--hidden 0": "argument --hidden: '0' is not a whole number of at least 1",
    "--name a/b": "'a/b' (--name) is no model name: expected letters, digits",
    "--name .hidden": "'.hidden' (--name) is no model name",
    "--data x/my#cats.npz": "'my#cats-mlp' (from --data; give a --name) is no model name",
    "--data mnits": "unknown dataset 'mnits': expected digits, mnist, fashion_mnist, cifar10, or the path of an .npz",
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
    """The command line made from settled arguments settles to the same arguments."""
    flags = arguments.parser("training.mlp", "x", learning_rate=0.002, dropout=0.1)
    first = arguments.parse(flags, "training.mlp", MEASURED, ["--data", "a b.npz", "--name", "ab", "--limit", "7"])
    line = arguments.command("training.mlp", arguments.as_json(first))
    assert line.startswith("python -m training.mlp --data 'a b.npz' --name ab --runs runs --epochs 20")
    again = arguments.parse(flags, "training.mlp", MEASURED, ["--data", "a b.npz", *line.split("npz' ")[1].split()])
    assert again == first
