"""Real servers, and servers that lie."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks import bench, cases, measure, messages, networks, process, raw
from benchmarks.messages import WIRES, Truth, WrongAnswer
from benchmarks.process import ROOT, Running
from tests.benchmarks.needs import needs_h2load
from topclass.v1 import inference_pb2 as pb

CASE = cases.Case("mlp", "uint8", 2, 8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All networks, both files of each."""
    folder = tmp_path_factory.mktemp("models")
    for network in networks.NETWORKS:
        networks.publish(folder, network)
    return folder


@pytest.fixture(scope="module")
def plain(repository: Path) -> Iterator[Running]:
    """The plain server, as a process."""
    with process.plain(repository) as running:
        yield running


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("network", networks.NETWORKS)
def test_the_plain_server_answers_right(plain: Running, repository: Path, network: str, wire: str) -> None:
    """One picture and several, of each network, on both wires."""
    truth = Truth(repository)
    assert truth.check(plain.address, WIRES[wire], network, 1) > 40
    assert truth.check(plain.address, WIRES[wire], network, 33) > 33 * 40


def test_the_plain_server_is_as_short_as_it_claims() -> None:
    """At most fifty lines with something in them."""
    lines = (ROOT / "benchmarks" / "plain.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 50


def test_the_networks_give_distributions_that_depend_on_the_picture(repository: Path) -> None:
    """And the file for float32 gives the same as that for uint8."""
    truth = Truth(repository)
    for network in networks.NETWORKS:
        pictures = WIRES["uint8"].pictures(network, 16)
        found = truth.probabilities(network, pictures)
        assert found.shape == (16, networks.CLASSES)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        assert found.std(axis=0).max() > 1e-3
        same = truth.probabilities(f"{network}-f32", pictures.astype(np.float32))
        np.testing.assert_allclose(found, same, atol=messages.TOLERANCE)


def test_wrong_answers_are_found() -> None:
    """Another shape, other probabilities, and the same ones for other pictures."""
    right = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    messages.compare(right + 1e-6, right, "a server")
    with pytest.raises(WrongAnswer, match=r"shape \(1, 2\); right is \(2, 2\)"):
        messages.compare(right[:1], right, "a server")
    with pytest.raises(WrongAnswer, match=r"off by up to 0\.7"):
        messages.compare(right[::-1], right, "a server")


def test_a_top_class_that_is_not_the_likeliest_is_found() -> None:
    """Probabilities alone are not enough."""
    response = pb.PredictResponse(predictions=[pb.Prediction(top_class=0, probabilities=[0.1, 0.9])])
    with pytest.raises(WrongAnswer, match=r"top classes \[0\] are not the likeliest ones, \[1\]"):
        messages.predictions(response)


@dataclass
class Liar:
    """Answers with a right server's answer, but every tenth call otherwise."""

    answer: bytes
    code: grpc.StatusCode | None
    calls: int = 0

    def predict(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        """Predict."""
        self.calls += 1
        if self.calls % 10:
            return self.answer
        if self.code:
            context.abort(self.code, "every tenth")
        return self.answer[:-1]


@needs_h2load
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, None], ids=["a bad status", "a short answer"])
def test_a_call_that_fails_under_load_voids_the_run(
    plain: Running, repository: Path, code: grpc.StatusCode | None
) -> None:
    """h2load calls it succeeded; the bytes of the answers tell."""
    wire, truth = WIRES["uint8"], Truth(repository)
    with grpc.insecure_channel(plain.address) as channel:
        answer = channel.unary_unary(wire.path)(wire.request("mlp", wire.pictures("mlp", CASE.rows)))
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.unary_unary_rpc_method_handler(Liar(answer, code).predict)
    service, method = wire.path[1:].split("/")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        subject = measure.Subject(Running(plain.process, f"127.0.0.1:{port}"), CASE, truth)
        subject.check = functools.partial(int, len(answer))  # type: ignore[method-assign]
        subject.requests = 80
        with pytest.raises(WrongAnswer, match="bytes of answers; right are"):
            subject.measure()
    finally:
        server.stop(0).wait(10)


@needs_h2load
def test_a_case_is_measured_on_all_servers_in_turns(plain: Running, repository: Path) -> None:
    """Unary on both wires and streams; our server's own count of its answers agrees."""
    todo = [CASE, cases.Case("mlp", "v2", 1, 1), cases.Case("mlp", "uint8", 1, 16, stream=True)]
    with process.server(repository) as ours:
        for case in todo:
            servers = {measure.PLAIN: plain, "grpcio": ours}
            found = measure.measure(case, servers, repository, Truth(repository), 0.1, 2)
            assert list(found.samples) == [measure.LIMIT, measure.PLAIN, "grpcio"]
            for samples in found.samples.values():
                assert len(samples) == 2
                assert all(sample.rate > 1 for sample in samples)
            assert found.median(measure.LIMIT, measure.rate) > found.median("grpcio", measure.rate)
            assert all(sample.p99 >= sample.p50 > 0 for sample in found.samples["grpcio"] if sample.p99 == sample.p99)
        assert set(measure.answered(ours)) == {"OK"}


@needs_h2load
def test_a_round_too_short_for_the_clock_counts_as_one_tick(plain: Running, repository: Path) -> None:
    """The kernel counts processor time in ticks; none at all would make the ratio infinite."""
    subject = measure.Subject(plain, CASE, Truth(repository))
    subject.requests = 8
    assert subject.measure().cpu >= process.TICK_SECONDS / 8


def test_a_run_that_is_terminated_ends_its_servers(tmp_path: Path) -> None:
    """SIGTERM in the middle leaves no process behind."""
    (tmp_path / "h2load").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "h2load").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "benchmarks.bench", "--only", "mlp/uint8/1@1"]
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(children := process.tree(run.pid)) < 5 and time.monotonic() < limit:  # two servers, the limit, h2load
        time.sleep(0.1)
    assert len(children) >= 5
    run.terminate()
    assert run.wait(60) == 143
    while (left := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < limit + 30:
        time.sleep(0.1)
    assert left == []


@pytest.mark.parametrize("flags", [["--seconds", "0"], ["--seconds", "nan"], ["--rounds", "0"]], ids=" ".join)
def test_a_measurement_of_nothing_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything starts."""
    with pytest.raises(SystemExit, match="2"):
        bench.main(flags)
    assert "--seconds must be more than 0, --rounds at least 1" in capsys.readouterr().err


def test_an_error_in_a_stream_is_a_wrong_answer(repository: Path) -> None:
    """The stream goes on after it, so the client must look."""
    case = cases.Case("mlp", "uint8", 1, 16, stream=True)
    with process.server(repository) as ours:
        subject = measure.Subject(ours, case, Truth(repository))
        subject._message = WIRES["uint8"].request("nobody", WIRES["uint8"].pictures("mlp", 1))
        with pytest.raises(WrongAnswer, match=r"an answer of the stream is an error: .*nobody"):
            subject._run(32)


def test_the_start_is_timed_until_the_first_right_answer(repository: Path) -> None:
    """And the memory is that of a server that has answered."""
    seconds, rss = measure.first_answer(lambda: process.server(repository), Truth(repository))
    assert 0.05 < seconds < 60
    assert rss > 30e6


def test_onnx_runtime_alone_is_measured_in_its_own_process(repository: Path) -> None:
    """No larger call than is allowed; the processor time of one thread is no more than the time that passed."""
    limit = raw.Raw(repository / "mlp" / "1" / "model.onnx", WIRES["uint8"].pictures("mlp", 64), 8, lone=True)
    try:
        assert limit.chunk in (1, 8)
        speed = limit.run(0.2)
        assert speed.rate > 100
        assert 0 < speed.cpu * speed.rate < 1.2
    finally:
        limit.close()


def test_the_transports_are_those_that_the_server_names() -> None:
    """grpcio is always there; native where --help has it."""
    help_text = subprocess.run([sys.executable, "-m", "server", "--help"], capture_output=True, text=True, check=True)
    named = "--transport" in help_text.stdout and "native" in help_text.stdout
    assert bench.available() == (["grpcio", "native"] if named else ["grpcio"])
