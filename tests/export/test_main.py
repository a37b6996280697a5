import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from export.__main__ import main
from export.verify import CARD_KEY, read_card, verify_file

from .conftest import edit_metrics, write_run
from .networks import NETWORKS, shake

ROOT = Path(__file__).parents[2]


def command(*arguments: str | Path, code: str = "", folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run `python -m export` in a process of its own."""
    start = ["-c", code] if code else ["-m", "export"]
    environment = {**{k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.tensorflow
def test_export_publishes(run_folder: Path, tmp_path: Path) -> None:
    """One command makes models/tiny/1/model.onnx, says so alone on stdout, and on stderr what was proven, quietly."""
    done = command(run_folder, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "models/tiny/1/model.onnx\n"), done.stderr
    assert "batch sizes   1, 2, 3, 7, 32, 47" in done.stderr
    assert not [
        line for line in done.stderr.splitlines() if "tensorflow/" in line or "WARNING" in line or "oneDNN" in line
    ]
    card = verify_file((tmp_path / "models/tiny/1/model.onnx").read_bytes())
    assert set(card) == {
        *(
            "schema",
            "name",
            "recipe",
            "run",
            "labels",
            "input",
            "preprocessing",
            "training_data",
            "arguments",
            "metrics",
        ),
        *(
            "calibration",
            "out_of_distribution",
            "reference",
            "certificate",
            "golden",
            "versions",
            "git_commit",
            "created",
        ),
    }
    assert card["input"] == {"name": "image", "kind": "image", "dtype": "uint8", "shape": [None, 8, 8], "channels": 1}
    assert card["labels"] == [f"class {i}" for i in range(5)]
    assert (card["certificate"]["samples"], card["certificate"]["converter"]) == (40, "topclass")
    assert card["golden"]["shape"] == [4, 8, 8]
    assert {"onnx", "onnxruntime", "numpy"} <= set(card["versions"])


@pytest.mark.tensorflow
def test_export_to_a_file(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-o writes the proven file there under the name asked for, and publishes nothing."""
    out = tmp_path / "out.onnx"
    assert main([str(run_folder), "-o", str(out), "--name", "other", "--models", str(tmp_path / "models")]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert verify_file(out.read_bytes())["name"] == "other"
    assert not (tmp_path / "models").exists()
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((0, 8, 8), np.uint8)})[0].shape == (0, 5)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "classes", "words"), [("sigmoid_neuron", 2, "two columns"), ("logits", 5, "softmax was appended")]
)
def test_card_says_what_was_appended(name: str, classes: int, words: str, tmp_path: Path, keras: Any) -> None:
    """What the export added to the network is said in the card's preprocessing."""
    folder = write_run(tmp_path / "run", shake(NETWORKS[name](keras)), classes)
    out = tmp_path / "out.onnx"
    assert main([str(folder), "-o", str(out)]) == 0
    assert words in read_card(out.read_bytes())["preprocessing"]


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail with status 1, nothing on stdout and one last line, and give that line."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("export: ")
    return last


def spoil_model(folder: Path) -> None:
    """Cut the Keras file in half."""
    path = folder / "model.keras"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_samples(folder: Path, inputs: np.ndarray) -> None:
    """Replace the samples."""
    np.savez(folder / "samples.npz", inputs=inputs, labels=np.zeros(len(inputs), np.int64))


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a Keras file": (spoil_model, "model.keras cannot be loaded by Keras"),
    "no Keras file": (lambda f: (f / "model.keras").unlink(), "has no model.keras"),
    "unfinished": (lambda f: (f / "metrics.json").unlink(), "incomplete: no metrics.json"),
    "no JSON": (lambda f: (f / "metrics.json").write_text("{"), "metrics.json cannot be read"),
    "new schema": (lambda f: edit_metrics(f, lambda m: m.update(schema=2)), "has schema 2; expected 1"),
    "no labels": (lambda f: edit_metrics(f, lambda m: m.pop("labels")), "no proper 'labels'"),
    "labels are numbers": (lambda f: edit_metrics(f, lambda m: m.update(labels=[1])), "label must be a string"),
    "a label too few": (lambda f: edit_metrics(f, lambda m: m["labels"].pop()), "4 labels, but the network gives 5"),
    "strange kind": (lambda f: edit_metrics(f, lambda m: m["input"].update(kind="sound")), "input kind 'sound'"),
    "NaN": (lambda f: edit_metrics(f, lambda m: m["metrics"].update(x=float("nan"))), "cannot be written as JSON"),
    "name": (lambda f: edit_metrics(f, lambda m: m.update(model="../x")), "model name '../x'; expected"),
    "no samples": (lambda f: (f / "samples.npz").unlink(), "has no samples.npz"),
    "zero samples": (lambda f: save_samples(f, np.zeros((0, 8, 8), np.uint8)), "has no samples; nothing can be proven"),
    "broken samples": (lambda f: (f / "samples.npz").write_bytes(b"PK\3\4"), "samples.npz cannot be read"),
    "other samples": (lambda f: np.savez(f / "samples.npz", x=np.zeros(3)), "samples.npz cannot be read"),
    "float pictures": (lambda f: save_samples(f, np.zeros((3, 8, 8))), "are float64; expected uint8"),
    "other size": (lambda f: save_samples(f, np.zeros((3, 9, 8), np.uint8)), r"[3, 9, 8]; metrics.json says [N, 8, 8]"),
    "extra axis": (lambda f: save_samples(f, np.zeros((3, 8, 8, 1), np.uint8)), "the Keras model takes [N, 8, 8]"),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_runs(case: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each way in which a run can be broken gets its own clear line, and nothing is published."""
    spoil, words = SPOILT[case]
    spoil(run_folder)
    assert words in fails(capsys, [str(run_folder), "--models", str(tmp_path / "models")])
    assert not list((tmp_path / "models").glob("*/*"))


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is missing, empty, or holds runs is told apart."""
    assert "no run folder" in fails(capsys, [str(tmp_path / "nowhere")])
    assert "is no run folder: it has no metrics.json" in fails(capsys, [str(tmp_path)])
    (tmp_path / "20260101T000000Z-abcdef").mkdir()
    (tmp_path / "20260101T000000Z-abcdef/metrics.json").write_text("{}")
    assert "the newest is" in fails(capsys, [str(tmp_path)])


@pytest.mark.tensorflow
def test_parity_failure_publishes_nothing(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter with a mistake is found out, and nothing is published."""
    from export import emit, network

    right = emit.EMITTERS[network.Softmax]

    def wrong(e: Any, op: Any, inputs: Any) -> Any:
        halved = e.graph.node("Mul", [inputs[0].tensor, e.graph.scalar("half", 0.5)], "mistake")
        return right(e, op, [replace(inputs[0], tensor=halved)])

    monkeypatch.setitem(emit.EMITTERS, network.Softmax, wrong)
    line = fails(capsys, [str(run_folder), "--models", str(tmp_path / "models")])
    assert "Keras and ONNX differ by" in line
    assert "at batch size 1" in line
    assert not (tmp_path / "models").exists()


def test_publish_verify_inspect(proven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished file is verified, shown in 80 columns, and published under its card's name."""
    assert main(["verify", str(proven)]) == 0
    assert capsys.readouterr().out.startswith(f"verified {proven}: graph sha256 ")
    assert main(["inspect", str(proven)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(
        words in shown for words in ("image: uint8 [N, 2, 3]", "a, b, c", "training.tiny", "accuracy 0.5", "1e-05")
    )
    models = tmp_path / "models"
    assert main(["publish", str(proven), "--models", str(models)]) == 0
    assert main(["publish", str(proven), "--models", str(models), "--name", "again"]) == 0
    assert capsys.readouterr().out == f"{models}/hand-made/1/model.onnx\n{models}/again/1/model.onnx\n"


def test_flipped_weight(proven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped byte of a weight is refused by verify and by publish."""
    data = bytearray(proven.read_bytes())
    data[data.index(b"kernel", data.index(b"probabilities")) + 16] ^= 0x10
    proven.write_bytes(data)
    assert "the graph has changed since it was verified" in fails(capsys, ["verify", str(proven)])
    assert "the graph has changed" in fails(capsys, ["publish", str(proven), "--models", str(tmp_path / "models")])
    assert not (tmp_path / "models").exists()


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder and an empty file are refused by each verb in one line."""
    (tmp_path / "empty").write_bytes(b"")
    for verb in ("verify", "inspect", "publish"):
        assert "cannot read" in fails(capsys, [verb, str(tmp_path / "nowhere")])
        assert "Is a directory" in fails(capsys, [verb, str(tmp_path)])
        assert "topclass did not write it" in fails(capsys, [verb, str(tmp_path / "empty")])


def test_file_verbs_do_not_import_tensorflow(proven: Path, tmp_path: Path) -> None:
    """publish, verify and inspect work where TensorFlow is not installed."""
    code = (
        "import sys; from export.__main__ import main; status = main(sys.argv[1:]);"
        "print(sorted({'tensorflow', 'keras', 'onnx'} & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    for arguments in (["verify", proven], ["inspect", proven], ["publish", proven, "--models", tmp_path / "models"]):
        done = command(*arguments, code=code)
        assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("arguments", [[], ["run", "extra"], ["--nonsense"], ["verify"], ["publish", "x", "-o", "y"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage exits with 2 and says how it goes."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m export" in capsys.readouterr().err


def test_unfit_name_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no model may have is refused before anything is read."""
    assert "model name 'a/b'" in fails(capsys, [str(tmp_path), "--name", "a/b"])


@pytest.mark.tensorflow
def test_large_card(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A card over a megabyte is refused with its size."""
    edit_metrics(run_folder, lambda m: m["metrics"].update(long="x" * (1 << 20)))
    assert "over the 1,048,576" in fails(capsys, [str(run_folder), "-o", str(tmp_path / "out.onnx")])


def test_card_survives_as_json(proven: Path) -> None:
    """The card is plain JSON under one key."""
    session = onnxruntime.InferenceSession(proven, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map[CARD_KEY])["schema"] == 1
