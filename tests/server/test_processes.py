"""Several processes on one port, with the real command and real channels."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest

from server.config import Config, load
from server.cpus import granted
from tests import models
from tests.server.conftest import Start
from tests.server.test_life import address, ended
from tests.server.test_neighbours import until
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc

TWO = ("--processes", "2", "--workers", "1")


class Log:
    """What a process writes to stderr, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process, self.lines = process, list[str]()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr
        self.lines.extend(iter(self._process.stderr.readline, ""))

    def pids(self, words: str) -> list[int]:
        """The number that follows these words, in every line that has them."""
        return [int(found[1]) for line in list(self.lines) if (found := re.search(words + r"(\d+)", line))]

    def ready(self, count: int = 2) -> list[int]:
        """The processes that were ready so far, oldest first; waits for so many."""
        until(lambda: len(self.pids(r"is ready: pid ")) >= count)
        return self.pids(r"is ready: pid ")


def connect(where: str) -> grpc.Channel:
    """A connection of its own, so that the kernel chooses a process for it."""
    return grpc.insecure_channel(where, options=[("grpc.use_local_subchannel_pool", 1)])


def predict(channel: grpc.Channel) -> int:
    """The number of answers to 40 pictures."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return len(stub.Predict(pb.PredictRequest(tensor=tensor(pictures(40))), timeout=20).predictions)


class Callers:
    """Threads that call until told to end, each call on a connection of its own, and try again where UNAVAILABLE."""

    def __init__(self, where: str, count: int = 4):
        self._where, self.ending = where, threading.Event()
        self.answered, self.statuses = [0] * count, set[grpc.StatusCode]()
        self._threads = [threading.Thread(target=self._call, args=(index,)) for index in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self, index: int) -> None:
        while not self.ending.is_set():
            try:
                with connect(self._where) as channel:
                    for _ in range(20):
                        assert predict(channel) == 40
                        self.answered[index] += 1
            except grpc.RpcError as error:
                self.statuses.add(error.code())
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return
                time.sleep(0.02)

    def end(self) -> None:
        """Ends the threads."""
        self.ending.set()
        for thread in self._threads:
            thread.join(30)


def alive(pid: int) -> bool:
    """True while a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def port_of(where: str) -> str:
    """The port of host:port."""
    return where.rsplit(":", 1)[1]


def test_two_processes_answer_on_one_port_and_stop_together(repository: Path, tmp_path: Path, start: Start) -> None:
    """Both answer, the ready-file comes when both do, SIGTERM ends all three with status 0 and loses nothing."""
    process = start("--models", str(repository), *TWO, "--log-level", "debug")
    log = Log(process)
    where = address(tmp_path)
    children = log.ready()
    assert len(set(children)) == 2

    def both_answered() -> bool:
        with connect(where) as channel:
            assert predict(channel) == 40
        return set(log.pids(r"pid (?=\d+ DEBUG\s+Predict OK)")) == set(children)

    until(both_answered)
    callers = Callers(where)
    until(lambda: all(callers.answered))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    callers.end()
    assert callers.statuses <= {grpc.StatusCode.UNAVAILABLE}
    assert not any(map(alive, children))
    assert not (tmp_path / "ready").exists()


def test_a_process_that_is_killed_is_restarted_and_callers_see_at_most_unavailable(
    repository: Path, tmp_path: Path, start: Start
) -> None:
    """kill -9 of one of two under load: the other goes on, a third takes the place, no other status is seen."""
    process = start("--models", str(repository), *TWO)
    log, where = Log(process), address(tmp_path)
    victim, other = log.ready()
    callers = Callers(where)
    until(lambda: all(callers.answered))
    os.kill(victim, signal.SIGKILL)
    third = log.ready(3)[2]
    before = sum(callers.answered)
    until(lambda: sum(callers.answered) > before + 100)
    callers.end()
    assert callers.statuses <= {grpc.StatusCode.UNAVAILABLE}
    assert alive(other)
    assert third not in (victim, other)
    assert any("ended by itself" in line and "SIGKILL" in line for line in log.lines)
    process.terminate()
    assert process.wait(30) == 0


def test_when_the_supervisor_is_killed_its_processes_end_too(repository: Path, tmp_path: Path, start: Start) -> None:
    """kill -9 of the supervisor leaves no orphan: its processes finish and end within seconds."""
    process = start("--models", str(repository), *TWO)
    log = Log(process)
    address(tmp_path)
    children = log.ready()
    process.kill()
    until(lambda: not any(map(alive, children)))


def test_a_second_signal_kills_all_processes_at_once(repository: Path, tmp_path: Path, start: Start) -> None:
    """The first signal waits for the delay; the second does not."""
    process = start("--models", str(repository), *TWO, "--stop-delay-seconds", "60")
    log = Log(process)
    address(tmp_path)
    process.send_signal(signal.SIGTERM)
    until(lambda: sum("for another 60 s" in line for line in list(log.lines)) == 2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 128 + signal.SIGINT
    until(lambda: not any(map(alive, log.ready())))


def test_a_signal_to_every_process_at_once_is_no_second_signal(repository: Path, tmp_path: Path, start: Start) -> None:
    """As systemd does: SIGTERM to supervisor and processes together is a clean stop with status 0."""
    process = start("--models", str(repository), *TWO)
    log = Log(process)
    address(tmp_path)
    for pid in (process.pid, *log.ready()):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(30) == 0
    assert not any("second signal" in line for line in log.lines)


def test_processes_that_cannot_start_end_the_command(tmp_path: Path, start: Start) -> None:
    """Exit status 1: their own line says why, the supervisor's says that it gives up."""
    status, errors = ended(start("--models", str(tmp_path / "nowhere"), *TWO))
    assert status == 1
    assert "topclass server: there is no model repository" in errors
    assert "topclass server: the server processes end before they are ready; their own lines above say why" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "ready").exists()


def test_processes_that_can_no_longer_start_are_given_up_after_a_while(
    repository: Path, tmp_path: Path, start: Start
) -> None:
    """A process that dies and then fails to start again and again ends the command with status 1, not a busy loop."""
    process = start("--models", str(repository), *TWO)
    log = Log(process)
    address(tmp_path)
    repository.rename(tmp_path / "elsewhere")
    os.kill(log.ready()[0], signal.SIGKILL)
    assert process.wait(60) == 1
    assert sum("is started again in" in line for line in log.lines) == 5
    assert any("the server processes end before they are ready" in line for line in log.lines)


def test_a_port_that_a_stranger_has_is_a_clear_error_for_several_processes_too(repository: Path, start: Start) -> None:
    """Exit status 1 and the address, also where the stranger would share the port by SO_REUSEPORT."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, errors = ended(start("--models", str(repository), *TWO, "--grpc-port", str(port)))
    assert status == 1
    assert f"topclass server: cannot listen on 127.0.0.1:{port}: is the port in use" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("second", [(), TWO])
def test_nobody_joins_the_port_of_several_processes(
    repository: Path, tmp_path: Path, start: Start, second: tuple[str, ...]
) -> None:
    """A second server on the same port, of one process or of several, ends with status 1."""
    start("--models", str(repository), *TWO)
    port = port_of(address(tmp_path))
    status, errors = ended(start("--models", str(repository), "--grpc-port", port, *second))
    assert status == 1
    assert "is the port in use" in errors


def test_processors_are_shared_out(repository: Path, tmp_path: Path, start: Start) -> None:
    """Without --workers each process gets its share of the processors, at least one; settings reach every process."""
    process = start("--models", str(repository), "--processes", "3", TOPCLASS_MAX_REQUEST_ROWS="39")
    log = Log(process)
    with connect(address(tmp_path)) as channel, pytest.raises(grpc.RpcError, match="at most 39"):
        predict(channel)
    log.ready(3)
    assert log.pids(r"INFO\s+device cpu, ") == [max(1, granted() // 3)] * 3


def test_a_config_goes_through_flags_unchanged(tmp_path: Path) -> None:
    """What a process reads from the flags that its supervisor gives it is the supervisor's own config."""
    config = Config(
        models=Path("-odd name"), host="::1", token_file=Path("t"), reflection=False, ready_file=tmp_path, workers=3
    )
    assert load(config.flags(), {}) == config
    assert load(Config().flags(), {}) == Config()


def test_each_process_follows_the_repository(repository: Path, tmp_path: Path, start: Start) -> None:
    """A model that is published later is answered by every process."""
    start("--models", str(repository), *TWO, "--watch-seconds", "0.1")
    where = address(tmp_path)
    models.put(repository, "late", 1, models.with_card(models.classifier()))

    def knows() -> bool:
        with connect(where) as channel:
            models = inference_pb2_grpc.InferenceServiceStub(channel).ListModels(pb.ListModelsRequest()).models
            return [model.name for model in models] == ["late", "pets"]

    until(lambda: all(knows() for _ in range(12)))
