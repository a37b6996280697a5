"""`python -m server doctor`: what this machine and environment can do, what is wrong with it, and what cures it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from server import cpus, device
from server.errors import DeviceUnavailable

PACKAGES = ("topclass", "grpcio", "protobuf", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu")
# What onnxruntime-gpu from 1.27 on is built for; the driver brings the first, pip or the system the others.
LIBRARIES = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and, where that is a problem, what cures it."""

    what: str
    found: str
    cure: str = ""


def report(wanted: str) -> tuple[str, bool]:
    """All findings as text of 80 columns, and whether a server with `--device wanted` would start and compute there."""
    findings = [*_packages(), *_processors(), *_devices(wanted)]
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines += _folded(f"{'!' if finding.cure else ' '} {finding.what:<{width}}  ", finding.found)
        lines += _folded(f"  {'':<{width}}  ", f"cure: {finding.cure}") if finding.cure else []
    problems = sum(bool(finding.cure) for finding in findings)
    lines.append("no problem found" if not problems else f"{problems} problem{'s' if problems > 1 else ''} found")
    return "\n".join(lines), not problems


def _folded(before: str, text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent=before, subsequent_indent=" " * len(before), break_long_words=False)


def _packages() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    for name, version in versions.items():
        yield Finding(name, version)
    if {"onnxruntime", "onnxruntime-gpu"} <= versions.keys():
        yield Finding(
            "onnxruntime",
            "both onnxruntime and onnxruntime-gpu are installed: they overwrite each other's files",
            "pip uninstall both, then install the one that you want",
        )


def _processors() -> Iterator[Finding]:
    quota = cpus.cgroup_quota()
    limit = "no cgroup limit" if quota is None else f"the cgroup grants {quota:g}"
    yield Finding("processors", f"{os.cpu_count()} in the machine, {limit}; the server computes with {cpus.granted()}")


def _devices(wanted: str) -> Iterator[Finding]:
    yield Finding("providers", f"{', '.join(device.built_in())} (what ONNX Runtime was built with)")
    yield Finding("GPUs", _gpus())
    if device.CUDA in device.built_in():
        device.preload()
        for name in LIBRARIES:
            yield Finding(name, _library(name))
    cause, cure = device.why_not_cuda()
    try:
        chosen = device.choose(wanted)
    except DeviceUnavailable:
        yield Finding("device", f"--device {wanted} cannot be had: {cause}", cure)
        return
    fell_back = wanted == "auto" and chosen.names == ("cpu",) and device.CUDA in device.built_in()
    yield Finding("device", f"--device {wanted} is {chosen} here{f', for {cause}' if fell_back else ''}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> str:
    command = shutil.which("nvidia-smi")
    if not command:
        return "no nvidia-smi, so no NVIDIA driver"
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer"
    return "; ".join(done.stdout.strip().splitlines()) or f"nvidia-smi lists none: {done.stderr.strip()[:200]}"


def _library(name: str) -> str:
    """Where a shared library was loaded from, or why it cannot be."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return f"not found: {error}"
    mapped = re.findall(rf"(/\S*{re.escape(name)}\S*)", Path("/proc/self/maps").read_text())
    return mapped[0] if mapped else "found"
