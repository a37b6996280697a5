"""What must hold of the compose file and the Dockerfile, without running either."""

from __future__ import annotations

import dataclasses
import json
import re
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from server.config import Config
from tests.containers.podman import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
DOCKERFILE = (ROOT / "server" / "Dockerfile").read_text()
SERVERS = [name for name in SERVICES if name.startswith("server")]
DEFAULTS = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
DOCUMENTED = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
PASSED_ON = {name for service in SERVERS for name in SERVICES[service]["environment"]}


def seconds(text: str) -> float:
    """`40s` as a number."""
    return float(text.removesuffix("s"))


def test_every_variable_is_documented_and_no_other() -> None:
    """.env.example names exactly the variables that the compose file reads."""
    assert set(re.findall(r"\$\{(\w+)", TEXT)) | PASSED_ON == set(DOCUMENTED)


def test_the_documented_defaults_are_the_real_ones() -> None:
    """What .env.example gives as default is compose's own, and the server's for what is handed to the server."""
    settings = {"TOPCLASS_" + field.name.upper(): field.default for field in dataclasses.fields(Config)}
    servers = {name: str(settings[name]).lower() for name in PASSED_ON}
    assert DEFAULTS | servers == DOCUMENTED


def test_every_variable_has_a_default() -> None:
    """`docker compose up` needs no .env: nothing that compose puts in is without a default."""
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == set(DEFAULTS)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked_down(name: str) -> None:
    """No capability, no new privilege, a read-only root, /tmp in memory, a bounded number of processes."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert [place.split(":")[0] for place in service["tmpfs"]] == ["/tmp"]
    assert service["pids_limit"] <= 1024
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "user"} & service.keys()


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_may_finish_what_it_accepted(name: str) -> None:
    """The grace period is longer, by more than ten seconds, than the server's own stop takes at most."""
    config = Config()
    stop = config.stop_delay_seconds + config.drain_seconds
    assert seconds(SERVICES[name]["stop_grace_period"]) > stop + 10


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_cannot_write_models_and_is_published_on_loopback(name: str) -> None:
    """The server reads the volume; only this machine reaches the ports unless SERVE_ADDRESS says otherwise."""
    assert SERVICES[name]["volumes"] == ["models:/models:ro"]
    ports = SERVICES[name]["ports"]
    assert all(port.startswith("${SERVE_ADDRESS:-127.0.0.1}:") for port in ports)
    assert [port.rsplit(":", 1)[1] for port in ports] == [str(Config().grpc_port), str(Config().http_port)]


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_waits_for_the_first_model(name: str) -> None:
    """init has ended well before a server starts."""
    assert SERVICES[name]["depends_on"] == {"init": {"condition": "service_completed_successfully"}}


def test_up_alone_starts_the_server_for_cpus() -> None:
    """Without a profile there are two services: init and server."""
    assert {name for name, service in SERVICES.items() if not service.get("profiles")} == {"init", "server"}


def test_the_gpu_service_asks_for_a_gpu_and_does_without_nothing_less() -> None:
    """server-gpu reserves an NVIDIA device and runs with --device cuda, which fails where there is none."""
    service = SERVICES["server-gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["command"] == ["--device", "cuda"]
    assert (ROOT / service["build"]["args"]["REQUIREMENTS"]).is_file()


def test_compose_and_image_check_health_alike() -> None:
    """The health check of the compose file is the one of the image."""
    found = re.search(r"^HEALTHCHECK (.*) CMD (\[.*\])$", DOCKERFILE, re.M)
    assert found is not None
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", found[1]))
    check = SERVICES["server"]["healthcheck"]
    assert check["test"] == ["CMD", *json.loads(found[2])]
    assert {key.replace("-", "_"): value for key, value in options.items()} == {
        key: str(value) for key, value in check.items() if key != "test"
    }


@pytest.mark.parametrize("target", ["trainer", "server"])
def test_a_shipped_stage_runs_nothing_and_is_not_root(target: str) -> None:
    """Shipped stages only copy, as user 10001 with an exec-form entrypoint: nothing of a build can stay behind."""
    stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    words = re.findall(r"^([A-Z]+) (.*)$", stage, re.M)
    assert "RUN" not in {word for word, _ in words}
    assert [value for word, value in words if word == "USER"] == ["10001:10001"]
    assert [json.loads(value)[0] for word, value in words if word == "ENTRYPOINT"] == ["python"]


def test_the_build_context_holds_what_is_copied_and_little_else() -> None:
    """Every source of a COPY exists and is let through by .dockerignore, which begins by refusing everything."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    sources = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M)
    sources = [source for source in sources if not source.startswith("$")]
    assert rules[0] == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source.rstrip("/"), pattern) for keep in kept for pattern in (keep, keep + "/*")), source
    assert {source.split("/")[0] for source in sources} == set(kept)


def test_no_address_and_no_secret_is_written_down() -> None:
    """Images are named without a registry, and pip's configuration is only ever a secret mount."""
    assert "://" not in TEXT + DOCKERFILE.replace("file://$(", "")
    assert not re.search(r"(index-url|find-links|trusted-host|PIP_INDEX|PIP_EXTRA)", TEXT + DOCKERFILE)
    installs = len(re.findall(r"pip[^\n]* install ", DOCKERFILE))
    assert installs == DOCKERFILE.count("--mount=type=secret,id=pip,target=/etc/pip.conf")
