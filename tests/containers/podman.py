"""podman and podman-compose as the tests call them: each command bounded in time, its words kept for the failure."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONF = Path(__file__).parent / "containers.conf"
COMPOSE = ROOT / ".venv-containers" / "bin" / "podman-compose"
TAG = "test"
SERVER, TRAINER = f"localhost/topclass-server:{TAG}", f"localhost/topclass-trainer:{TAG}"


class Failed(Exception):
    """A command ended with another status than 0; the words are its own."""


def run(*command: str | Path, seconds: float = 60, environment: dict[str, str] | None = None) -> str:
    """What the command wrote on stdout; Failed with everything it wrote where its status is not 0 or time is up."""
    words = [str(word) for word in command]
    # This file alone: neither the machine's /etc/containers nor the caller's settings matter.
    environment = {**os.environ, "CONTAINERS_CONF": str(CONF), **(environment or {})}
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{' '.join(words)}: not done after {seconds:g} s; {late.stdout!r} {late.stderr!r}") from late
    if done.returncode != 0:
        raise Failed(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def podman(*arguments: str | Path, seconds: float = 60) -> str:
    """stdout of one podman command."""
    return run("podman", *arguments, seconds=seconds)


def inspect(what: str) -> dict[str, Any]:
    """What podman knows of one container, image or volume."""
    return json.loads(podman("inspect", what))[0]


@dataclass
class Stack:
    """The compose file, brought up under a name and a port of its own."""

    port: int
    http_port: int = 0
    name: str = "topclass-test"
    variables: dict[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        """stdout of one podman-compose command. An empty .env file, so that the developer's own does not count."""
        ports = {"SERVE_PORT": str(self.port), "SERVE_HTTP_PORT": str(self.http_port)}
        variables = {**ports, "IMAGE_TAG": TAG, "TRAIN_MODEL": "digits-mlp", **self.variables}
        start = (COMPOSE, "--env-file", os.devnull, "--project-name", self.name)
        return run(*start, *arguments, seconds=seconds, environment=variables)

    def container(self, service: str) -> str:
        """The name of the service's one container."""
        return f"{self.name}_{service}_1"

    def volume(self, volume: str) -> Path:
        """The folder in which the files of one of its volumes lie."""
        return Path(inspect(f"{self.name}_{volume}")["Mountpoint"])

    def inside(self, service: str, *command: str) -> str:
        """stdout of a command run inside the service's container, as its user."""
        return podman("exec", self.container(service), *command)

    def healthy(self) -> bool:
        """Runs the container's own health check now: without systemd nobody else does."""
        try:
            podman("healthcheck", "run", self.container("server"))
        except Failed:
            return False
        return True
