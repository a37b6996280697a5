"""The server's settings: one frozen, checked object, built once. Flags beat `TOPCLASS_*`, which beat the file."""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server import logs, policy, watch
from server.errors import ConfigError

MIB = 1 << 20
PREFIX = "TOPCLASS_"
# Variables of the same prefix that belong to the other parts; the server leaves them alone.
OTHERS = {"TOPCLASS_SERVER", "TOPCLASS_TOKEN", "TOPCLASS_DATA", "TOPCLASS_CONFIG"}


def _setting(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class Config:
    """Every setting, its default and the reason for it. `checked` is the only way to one that is known to be good."""

    models: Path = _setting(Path("models"), "the model repository: NAME/VERSION/model.onnx")
    # Loopback, because nothing here asks who is calling unless told to; the container image says 0.0.0.0.
    host: str = _setting("127.0.0.1", "address to listen on")
    # Triton's port, so that tools' defaults work. 0 lets the system choose one.
    grpc_port: int = _setting(8001, "port of the gRPC services; 0: any free one", low=0, high=65535)
    # native is many times faster for small requests; auto takes it where it keeps every promise (server/transports.py).
    transport: str = _setting("auto", "who speaks gRPC: grpcio, native (pygrpc-native), or auto, which says why")
    # Triton's again. The HTTP port is guarded as the other one is: TLS, callers' certificates, tokens.
    http_port: int = _setting(
        8000,
        "port of HTTP, with /metrics, /livez and /readyz; 0: any free one; -1: none, and no metrics",
        low=-1,
        high=65535,
    )
    device: str = _setting("auto", "auto, cpu, cuda, or cuda:0,cuda:1…; cuda fails where it cannot be used")
    # None: models of this kind need little, and one that has no memory left fails in the middle of a request.
    gpu_memory_mb: int = _setting(0, "most memory that a model takes of each GPU, in MiB; 0: no limit", low=0)
    version_policy: str = _setting(
        # Two, so that who pinned the version before a swap can finish with it.
        policy.USUAL,
        "which versions to serve: latest:N, all or specific:V,V…, or by model: latest:2;digits=all;pets=specific:1,3; "
        "what has an alias is served in any case",
    )
    # Notices where the system gives them. Network file systems give none of other machines' changes; hence the next.
    watch: str = _setting("auto", "how to learn of new versions: auto (inotify, and looking), poll (looking) or off")
    watch_seconds: float = _setting(1.0, "how often to look for new versions; 0: never, as --watch off", low=0)
    # Off, because whoever may call Predict could stop it for all.
    allow_control: bool = _setting(False, "let callers load and unload models: LoadModel, UnloadModel")
    # Off: clients made for one server of the field cannot read another's field of that number. ModelConfig has it, too.
    metadata_properties: bool = _setting(False, "put labels, sha256 and provider into ModelMetadata's properties, too")
    # Off, as in Triton: whoever may call could read and write every file in /dev/shm that this server can.
    shared_memory: bool = _setting(False, "take and give tensors in files of /dev/shm that callers register")
    allow_empty: bool = _setting(False, "be ready although the repository holds no model")
    workers: int = _setting(0, "threads that compute; 0: as many as the cgroup grants processors", low=0, high=1024)
    # Off: pinned workers cannot step aside when something else takes their processor.
    pin_workers: bool = _setting(False, "keep each worker on a processor of its own")
    # Eight times the largest call that warm-up tries: batching gains what it can before that (docs/decisions/0003).
    max_batch_rows: int = _setting(1024, "most rows computed together", low=1)
    # None: it makes a lone caller wait for nobody, and under load there is always something waiting.
    batch_window_ms: float = _setting(0.0, "let the first of a batch wait so long for others", low=0, high=1000)
    # Large enough for the batch jobs seen in the field, small enough that one message fits in memory many times.
    max_request_rows: int = _setting(131_072, "most rows of one request", low=1)
    max_message_bytes: int = _setting(128 * MIB, "most bytes of one message", low=1024, high=2**31 - 1)
    # Lists take up to thirty times their bytes of JSON, and hold everybody up while they are read: numbers go as bytes.
    max_json_bytes: int = _setting(8 * MIB, "most bytes of one JSON document", low=1024, high=2**31 - 1)
    # Enough for a phone; and nobody holds a connection and its memory by sending a byte now and then.
    body_seconds: float = _setting(10.0, "a body over HTTP may take so long, and a second more for each 64 KiB", low=0)
    # Twice the largest request: one may be computed while another waits.
    max_queue_rows: int = _setting(262_144, "most rows waiting, over all models; more is refused", low=1)
    max_queue_bytes: int = _setting(512 * MIB, "most bytes waiting, over all models, pictures to decode too", low=1)
    # A 16-megapixel photograph passes; a decompression bomb of 3 KB does not.
    max_image_pixels: int = _setting(4096 * 4096, "most pixels of one encoded picture", low=1)
    # Sixteen such photographs, or 342,000 pictures of 28x28: some seconds of one decoder, not minutes.
    max_request_pixels: int = _setting(16 * 4096 * 4096, "most pixels of all encoded pictures of a request", low=1)
    # A client that multiplexes more than this on one connection gains nothing and hides from load balancers.
    max_streams: int = _setting(1024, "most calls in progress on one connection; more wait in the client", low=1)
    # Each may hold a message of max_message_bytes; small ones at this number fill the queue long before.
    max_calls: int = _setting(4096, "most calls in progress in all; more are refused", low=1)
    # Long enough for a load balancer that asks for health every few hundred ms to look elsewhere first.
    stop_delay_seconds: float = _setting(0.5, "after SIGTERM, go on serving as NOT_SERVING for so long", low=0)
    # Under the 30 s that Kubernetes grants by default.
    drain_seconds: float = _setting(25.0, "after that, wait at most so long for accepted calls", low=0)
    reflection: bool = _setting(True, "answer gRPC reflection, for grpcurl and its like")
    tls_certificate: Path | None = _setting(None, "PEM file: this server's certificate, then those that lead to its CA")
    tls_key: Path | None = _setting(None, "PEM file: the certificate's private key, not encrypted")
    tls_client_ca: Path | None = _setting(None, "PEM file: only callers with a certificate of this CA are let in")
    token_file: Path | None = _setting(None, "one bearer token a line; only callers that send one of them are let in")
    # Probes of Kubernetes and load balancers can send no token, and learn nothing but SERVING or NOT_SERVING.
    open_health: bool = _setting(True, "answer grpc.health.v1, /livez and /readyz without a token, too")
    # What a process does beside computing fills one core at most; several also survive the death of one.
    processes: int = _setting(1, "server processes on the one port, watched and restarted", low=1, high=256)
    lifeline: int = _setting(-1, "for the processes of --processes: the socket to their supervisor", low=-1)
    shared_metrics: Path | None = _setting(None, "for the processes of --processes: the folder in which they count")
    # Long enough for the rows that the index wants, short enough that today's drift is not hidden by last week.
    drift_seconds: float = _setting(3600.0, "the sliding window in which /metrics looks for drift", low=1)
    ready_file: Path | None = _setting(None, "write the addresses here, as JSON, once ready")
    log_format: str = _setting("text", "text, for people, or json, an object a line")
    # A line costs as much as counting a hundred requests; those that failed are told in any case.
    access_log: float = _setting(0.01, "the share of good calls that get a log line: 0 none, 1 all", low=0, high=1)
    tracing: bool = _setting(False, "send spans by OpenTelemetry; the variables OTEL_… say where and how many")
    log_level: str = _setting("info", "debug, info, warning or error")

    def describe(self) -> str:
        """One line with every setting that is in force."""
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))

    def address(self, port: int) -> str:
        """host:port, with brackets around an IPv6 address."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    def flags(self) -> list[str]:
        """The command line that gives this config again."""
        values = {setting.name: getattr(self, setting.name) for setting in dataclasses.fields(self)}
        return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]


def checked(config: Config) -> Config:
    """The same config, or ConfigError with the name of the setting that is wrong, its value and what it may be."""
    for setting in dataclasses.fields(Config):
        value, low, high = getattr(config, setting.name), setting.metadata.get("low"), setting.metadata.get("high")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limits = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ConfigError(f"{setting.name} is {value}; it must be {limits}")
    if not re.fullmatch(r"auto|cpu|cuda|cuda:\d+(,cuda:\d+)*", config.device):
        raise ConfigError(f"device is {config.device!r}; it must be auto, cpu, cuda or cuda:N,cuda:N…")
    policy.parse(config.version_policy)
    if config.watch not in watch.HOWS:
        raise ConfigError(f"watch is {config.watch!r}; it must be auto, poll or off")
    if config.transport not in ("auto", "grpcio", "native"):
        raise ConfigError(f"transport is {config.transport!r}; it must be auto, grpcio or native")
    if config.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log_level is {config.log_level!r}; it must be debug, info, warning or error")
    if config.log_format not in logs.FORMATS:
        raise ConfigError(f"log_format is {config.log_format!r}; it must be text or json")
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise ConfigError("tls_certificate and tls_key go together: give both, or neither")
    if config.tls_client_ca and not config.tls_certificate:
        raise ConfigError("tls_client_ca needs tls_certificate and tls_key: callers' certificates come over TLS")
    if config.allow_control and config.processes > 1:
        raise ConfigError("allow_control goes with processes = 1 only: LoadModel would reach one process of several")
    if config.shared_memory and config.processes > 1:
        raise ConfigError("shared_memory goes with processes = 1 only: a region would be known to one of several")
    if config.grpc_port and config.grpc_port == config.http_port:
        raise ConfigError(f"grpc_port and http_port are both {config.grpc_port}; they must differ")
    if config.max_queue_rows < config.max_request_rows:
        raise ConfigError(
            f"max_queue_rows is {config.max_queue_rows}, less than max_request_rows, {config.max_request_rows}: "
            "the largest request could never be queued"
        )
    return config


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The config that flags, environment and file say together; ConfigError where they are wrong.

    `--config FILE` or TOPCLASS_CONFIG names a TOML file whose keys are the settings' names.
    """
    flags = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    file = flags.pop("config", None) or environment.get(PREFIX + "CONFIG")
    values = _from_file(Path(file)) if file else {}
    values |= _from_environment(environment)
    values |= {name: _read(name, value, "--" + name.replace("_", "-")) for name, value in flags.items()}
    return checked(Config(**values))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve the ONNX classifiers of a model repository over gRPC.",
        epilog="Each flag may also be given as TOPCLASS_<NAME> in the environment, or as <name> in the file "
        "that --config names. `python -m server doctor` says what this machine can do; `python -m server alias` and "
        "`python -m server rollback` say which version answers (each has its own --help).",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with settings")
    for setting in dataclasses.fields(Config):
        flag = "--" + setting.name.replace("_", "-")
        default = "none" if setting.default is None else str(setting.default).lower()
        text = f"{setting.metadata['help']} (default: {default})"
        if setting.type == "bool":
            parser.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=text)
        else:
            parser.add_argument(flag, metavar=str(setting.type).split()[0].upper(), help=text)
    return parser


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    names = {PREFIX + name.upper(): name for name in Config.__dataclass_fields__}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in names.keys() | OTHERS)
    if unknown:
        raise ConfigError(f"unknown setting in the environment: {', '.join(unknown)}")
    return {names[key]: _read(names[key], text, key) for key, text in environment.items() if key in names}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} is not TOML: {error}") from error
    if unknown := sorted(values.keys() - Config.__dataclass_fields__.keys()):
        raise ConfigError(f"unknown setting in {path}: {', '.join(unknown)}")
    return {name: _read(name, str(value), f"{name} in {path}") for name, value in values.items()}


def _read(name: str, text: str, where: str) -> Any:
    """The setting's value from its text, or ConfigError that names where the text stood."""
    kind = str(Config.__dataclass_fields__[name].type)
    try:
        if kind == "bool":
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in ("int", "float"):
            return {"int": int, "float": float}[kind](text)
        return Path(text) if kind.startswith("Path") else text
    except (KeyError, ValueError) as error:
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
        raise ConfigError(f"{where} is {text!r}; it must be {wanted}") from error
