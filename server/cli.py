"""`python -m server alias`, `rollback` and `doctor`. They talk to no server.

The first two say which version of a model answers, by one file in the repository; the doctor looks at this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from server import aliases, disk, doctor
from server.aliases import AliasError, Aliases
from server.config import Config, checked
from server.errors import ConfigError

COMMANDS = ("alias", "rollback", "doctor")


def main(arguments: Sequence[str]) -> int:
    """Runs one of COMMANDS. The exit status: 0 done, 1 it cannot be done, 2 a wrong flag."""
    options = _options(arguments)
    if options.command == "doctor":
        text, sound = doctor.report(options.device)
        print(text)
        return 0 if sound else 1
    folder: Path = options.models / options.model
    try:
        if not disk.NAME.fullmatch(options.model) or not folder.is_dir():
            raise AliasError(f"there is no model {options.model!r} in {options.models}; --models names the repository")
        print(_told(options.model, _run(folder, options)))
    except (AliasError, OSError) as error:
        print(f"topclass server: {error}", file=sys.stderr)
        return 1
    return 0


def _run(folder: Path, options: argparse.Namespace) -> Aliases:
    if options.command == "rollback":
        return aliases.rollback(folder)
    if options.name is None:
        return aliases.read(folder)
    if options.remove:
        return aliases.remove(folder, options.name)
    return aliases.assign(folder, options.name, options.version)


def _told(model: str, now: Aliases) -> str:
    names = ", ".join(f"{name} {version}" for name, version in sorted(now.items()))
    return f"{model}: {names or 'no alias; the newest version answers'}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"topclass server: {message} (--help lists the flags)\n")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m server", description="Say which version of a model answers.")
    commands = parser.add_subparsers(dest="command", required=True)
    alias = commands.add_parser("alias", help="list a model's aliases, or give a version a name")
    rollback = commands.add_parser("rollback", help="make the version before the champion the champion")
    for command in (alias, rollback):
        command.add_argument("model", help="the model's name")
        command.add_argument("--models", type=Path, default=Path("models"), help="the repository (default: models)")
    check = commands.add_parser("doctor", help="what this machine can do, what is wrong with it, and the cure")
    check.add_argument("--device", default="auto", help="the device that you mean to use (default: auto)")
    alias.add_argument("name", nargs="?", help="the alias, such as champion; without it, they are listed")
    alias.add_argument("version", nargs="?", type=int, help="the version that gets it")
    alias.add_argument("--remove", action="store_true", help="take the alias away")
    options = parser.parse_args(arguments)
    if options.command == "alias" and (options.name is None or options.remove) != (options.version is None):
        alias.error("give a name and a version, a name and --remove, or neither")
    if options.command == "alias" and options.remove and options.name is None:
        alias.error("--remove needs the alias to take away")
    if options.command == "doctor":
        try:
            checked(Config(device=options.device))
        except ConfigError as error:
            parser.error(str(error))
    return options
