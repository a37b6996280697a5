"""Builds both images as the compose file says: `python -m tests.containers.images`.

Where no registry can be reached, the base image is made with debootstrap, once, and kept as topclass-base:bookworm.
Where pip on this machine is configured (an index of its own, a certificate), the builds get that as a secret, and the
local folders it names as mounts. Neither reaches a layer of the images.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.containers.podman import ROOT, SERVER, TRAINER, Failed, Stack, inspect, podman, run

MADE_BASE = "localhost/topclass-base:bookworm"
# The slim images leave the same out.
UNWANTED = (
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
    *("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man"),
)

SEEN = ("index-url", "extra-index-url", "find-links", "no-index", "cert", "trusted-host", "proxy", "timeout")


def base() -> str:
    """The image to build on: IMAGE_BASE, what an earlier run made, the Dockerfile's own, or one made here."""
    if named := os.environ.get("IMAGE_BASE"):
        return named
    if _exists(MADE_BASE):
        return MADE_BASE
    usual = _default_base()
    if _exists(usual):
        return usual
    try:
        podman("pull", "--quiet", usual, seconds=180)
        return usual
    except Failed:
        print(f"no registry has {usual} for this machine; making a base with debootstrap", flush=True)
        return _debootstrap()


def build(service: str, image: str, pip: list[str]) -> None:
    """Builds the image of one service, as the compose file says, on the base `image`."""
    options = ["--network", "host", "--format", "docker", "--quiet", *pip]
    variables = {"IMAGE_BASE": image}
    Stack(0, variables=variables).compose(f"--podman-build-args={shlex.join(options)}", "build", service, seconds=1200)


def pip_arguments(folder: Path) -> list[str]:
    """podman build's arguments that let pip see what this machine's own pip sees; none where it is not configured."""
    values: dict[str, str] = {}
    # The environment comes first in pip's list, and beats the files.
    for line in reversed(run(sys.executable, "-m", "pip", "config", "list").splitlines()):
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ("global", "install", ":env:") and name in SEEN:
            values[name] = value.strip("'").replace("\\n", " ")
    if not values:
        return []
    secret = folder / "pip.conf"
    secret.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    places = {place for name, value in values.items() for part in value.split() if (place := _local(name, part))}
    mounts = [word for place in sorted(places) for word in ("--volume", f"{place}:{place}:ro")]
    return ["--secret", f"id=pip,src={secret}", *mounts]


def _local(name: str, value: str) -> str | None:
    """The folder or file of this machine that a value of pip's configuration means, if any."""
    path = Path(urlsplit(value).path if value.startswith("file:") else value)
    if not path.is_absolute() or not path.exists():
        return None
    # The pages of an index name files beside it.
    return str(path.parent if name.endswith("index-url") else path)


def _default_base() -> str:
    lines = (ROOT / "server" / "Dockerfile").read_text().splitlines()
    return next(line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))


def _exists(image: str) -> bool:
    try:
        podman("image", "exists", image)
    except Failed:
        return False
    return True


def _debootstrap() -> str:
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        sys.exit("topclass: making a base image needs root and debootstrap: apt-get install debootstrap")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root, archive = Path(folder, "root"), Path(folder, "base.tar")
        packages = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", packages, "bookworm", root, seconds=600)
        for unwanted in UNWANTED:
            shutil.rmtree(root / unwanted)
            (root / unwanted).mkdir()
        run("tar", "--create", "--file", archive, "--directory", root, ".")
        podman("import", "--quiet", archive, MADE_BASE)
    return MADE_BASE


def main() -> None:
    """Builds both, and says how large they are and how long it took."""
    image = base()
    with tempfile.TemporaryDirectory() as folder:
        pip = pip_arguments(Path(folder))
        for service, tag in (("server", SERVER), ("init", TRAINER)):
            started = time.monotonic()
            build(service, image, pip)
            size = inspect(tag)["Size"] / 1e6
            print(f"{tag}: {size:.0f} MB on {image}, built in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (Failed, subprocess.SubprocessError) as failed:
        sys.exit(f"topclass: {failed}")
