"""Keras to ONNX. `python -m export RUN` converts, proves, describes and publishes one run.

The last line on stdout is the path of the published file, alone; all talk goes to stderr.
Exit status: 0 done, 1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import ExportError
from .page import page
from .publish import check_name, publish, write_file
from .verify import read_card, verify_file

MODELS = Path("models")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _export(arguments: argparse.Namespace) -> None:
    if arguments.name is not None:
        check_name(arguments.name)
    with _quiet_import():
        from .pipeline import export_run
    exported = export_run(arguments.run, arguments.name, _say)
    _say_proof(exported.card)
    if arguments.output is not None:
        write_file(exported.data, arguments.output)
        print(arguments.output)
    else:
        print(publish(exported.data, arguments.models, exported.card["name"]))


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep TensorFlow's chatter off stderr while it is imported. The first lines heed no log level, only the
    descriptor helps; the level, which the user may have set, rules the rest."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    except ImportError as error:
        raise ExportError(f"exporting a run needs Keras and TensorFlow (export/requirements.txt): {error}") from error
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _say_proof(card: dict[str, Any]) -> None:
    proof, golden = card["certificate"], card["golden"]
    _say(f"compared Keras with ONNX Runtime on {proof['samples']} samples and {proof['probes']} made-up inputs")
    _say(f"  batch sizes   {', '.join(map(str, proof['batch_sizes']))}")
    _say(f"  differ by     at most {proof['max_abs_difference']:.2g}, allowed {proof['tolerance']:g}")
    if "max_ood_difference" in proof:
        _say(f"  scores by     at most {proof['max_ood_difference']:.2g}, allowed {proof['ood_tolerance']:g}")
    _say(f"  same class    {proof['argmax_agreement']:.2%}")
    _say(f"  golden        {golden['shape'][0]} inputs, run again from the finished file")
    _say(f"  graph sha256  {proof['graph_sha256']}")


def _publish(arguments: argparse.Namespace) -> None:
    data = _read(arguments.file)
    card = verify_file(data)
    print(publish(data, arguments.models, arguments.name if arguments.name is not None else str(card.get("name"))))


def _verify(arguments: argparse.Namespace) -> None:
    card = verify_file(_read(arguments.file))
    proof, golden = card["certificate"], card["golden"]
    print(f"verified {arguments.file}: graph sha256 {proof['graph_sha256']}, {golden['shape'][0]} golden inputs agree")


def _inspect(arguments: argparse.Namespace) -> None:
    data = _read(arguments.file)
    print(page(read_card(data), arguments.file, len(data)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a run into one proven ONNX file and publish it as the next version of its model.",
        epilog="Also: python -m export publish FILE | verify FILE | inspect FILE (each has --help).",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, runs/<model>/<run>")
    _add_place(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="write the proven file there; do not publish it"
    )
    parser.set_defaults(do=_export)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", metavar="FOLDER", type=Path, default=MODELS, help="the repository (%(default)s)")
    parser.add_argument("--name", help="the model's name (default: the one that the run or the card says)")


def _file_parser(verb: str, description: str, do: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m export {verb}", description=description)
    parser.add_argument("file", metavar="FILE", type=Path, help="a model.onnx that topclass wrote")
    parser.set_defaults(do=do)
    return parser


def _parse(given: Sequence[str]) -> argparse.Namespace:
    verb = given[0] if given else ""
    if verb == "publish":
        parser = _file_parser(verb, "Verify a file again and publish it as the next version of its model.", _publish)
        _add_place(parser)
    elif verb == "verify":
        parser = _file_parser(verb, "Check a file's graph against its card's sha256 and golden outputs.", _verify)
    elif verb == "inspect":
        parser = _file_parser(verb, "Show what a file says of itself.", _inspect)
    else:
        return _run_parser().parse_args(given)
    return parser.parse_args(given[1:])


def main(given: Sequence[str] | None = None) -> int:
    """Run one command; give its exit status."""
    arguments = _parse(sys.argv[1:] if given is None else given)
    try:
        arguments.do(arguments)
    except ExportError as error:
        _say(f"export: {error}")
        return 1
    except KeyboardInterrupt:
        _say("export: interrupted; nothing was published")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
