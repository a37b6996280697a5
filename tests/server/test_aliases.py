"""Champion and previous: which version answers, and how one command changes it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, probabilities, tensor
from tests.server.test_repository import listed, predict
from topclass.v1 import inference_pb2 as pb

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m server` with arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def put_aliases(repository: Path, text: str) -> None:
    """Writes the aliases of `pets`."""
    (repository / "pets" / "aliases.json").write_text(text)


@pytest.fixture
def three(repository: Path, serve: Callable[..., LiveServer]) -> LiveServer:
    """A server of `pets` versions 1, 2 and 3, with the policy latest:1."""
    models.put(repository, "pets", 2, models.classifier(seed=2))
    models.put(repository, "pets", 3, models.classifier(seed=3))
    return serve(models=repository, version_policy="latest:1")


def test_the_champion_answers_when_no_version_is_named(three: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    """With a champion set, requests without a version get it, whatever is newer; ListModels and the log say so."""
    put_aliases(three.models, '{"champion": 2, "previous": 1}')
    three.refresh()
    rows = pictures(3)
    answer = predict(three, rows=rows)
    assert answer.version == 2
    np.testing.assert_allclose(probabilities(answer), models.expected(rows, seed=2), atol=1e-6)
    entries = listed(three)
    assert {version: list(entry.aliases) for (_, version), entry in entries.items()} == {
        1: ["previous"],
        2: ["champion"],
        3: [],
    }
    assert [version for (_, version), entry in entries.items() if entry.newest] == [2]
    models.put(three.models, "pets", 4, models.classifier(seed=4))
    for _ in range(2):
        three.refresh()
    assert predict(three).version == 2
    words = "model pets version 4: ready, but version 2 is named champion and goes on answering"
    assert [record.getMessage() for record in caplog.records].count(words) == 1


def test_what_has_an_alias_is_served_whatever_the_policy_says(three: LiveServer) -> None:
    """latest:1 serves version 3; with champion and previous set, 1 and 2 are served too, until the names go."""
    assert {version for (_, version), e in listed(three).items() if e.state == pb.MODEL_STATE_READY} == {3}
    put_aliases(three.models, '{"champion": 2, "previous": 1}')
    three.refresh()
    assert {version for (_, version), e in listed(three).items() if e.state == pb.MODEL_STATE_READY} == {1, 2, 3}
    put_aliases(three.models, '{"previous": 1}')
    three.refresh()
    assert predict(three).version == 3
    (three.models / "pets" / "aliases.json").unlink()
    three.refresh()
    assert {version for (_, version), e in listed(three).items() if e.state == pb.MODEL_STATE_READY} == {3}
    assert predict(three).version == 3


def test_a_request_may_name_an_alias(three: LiveServer) -> None:
    """Predict and GetModel answer with the version that has the alias; any small name can be one."""
    put_aliases(three.models, '{"champion": 3, "previous": 2, "canary-eu": 1}')
    three.refresh()
    for alias, version in (("champion", 3), ("previous", 2), ("canary-eu", 1)):
        request = pb.PredictRequest(model="pets", alias=alias, tensor=tensor(pictures(1)))
        assert three.stub.Predict(request).version == version
        assert three.stub.GetModel(pb.GetModelRequest(alias=alias)).model.version == version


WRONG = {
    "both": ({"alias": "champion", "version": 3}, grpc.StatusCode.INVALID_ARGUMENT, "version 3 and alias 'champion'"),
    "unknown": (
        {"alias": "winner"}, grpc.StatusCode.NOT_FOUND, "has no alias 'winner'; it has champion, gone",
    ),
    "of nothing": ({"alias": "gone"}, grpc.StatusCode.NOT_FOUND, "has no version 9 (gone); it has 2, 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_alias_that_leads_nowhere_is_told_so(three: LiveServer, case: str) -> None:
    """The status and the words say what was asked and what there is."""
    put_aliases(three.models, '{"champion": 2, "gone": 9}')
    three.refresh()
    fields, code, words = WRONG[case]
    with pytest.raises(grpc.RpcError) as caught:
        three.stub.Predict(pb.PredictRequest(model="pets", tensor=tensor(pictures(1)), **fields))
    assert caught.value.code() is code
    assert words in caught.value.details()


CORRUPT = {
    "cut off": ('{"champion": 3, ', "aliases.json is not JSON"),
    "a list": ("[1, 2]", "aliases.json must be like"),
    "a version in words": ('{"champion": "three"}', "aliases.json must be like"),
    "a switch": ('{"champion": true}', "aliases.json must be like"),
    "a strange name": ('{"Champion!": 1}', "aliases.json must be like"),
    "not text": ("\x00\x01", "aliases.json is not JSON"),
    "too long": (" " * 70_000 + "{}", "aliases.json must be like"),
    "too deep": ("[" * 60_000, "aliases.json is not JSON"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_aliases_file_leaves_the_aliases_as_they_were(three: LiveServer, case: str) -> None:
    """The champion stays, ListModels says what is wrong, and a good file is followed again."""
    text, words = CORRUPT[case]
    put_aliases(three.models, '{"champion": 2}')
    three.refresh()
    put_aliases(three.models, text)
    three.refresh()
    assert predict(three).version == 2
    [problem] = three.stub.ListModels(pb.ListModelsRequest()).problems
    assert problem.startswith("model 'pets': ")
    assert words in problem
    put_aliases(three.models, '{"champion": 1}')
    three.refresh()
    assert predict(three).version == 1
    assert not three.stub.ListModels(pb.ListModelsRequest()).problems


def test_a_champion_that_cannot_be_served_is_stood_in_for_and_told(three: LiveServer) -> None:
    """Previous answers instead of a broken champion, the newest where there is no previous; ListModels says so."""
    models.put(three.models, "pets", 4, b"rubbish")
    put_aliases(three.models, '{"champion": 4, "previous": 2}')
    three.refresh()
    assert predict(three).version == 2
    [problem] = three.stub.ListModels(pb.ListModelsRequest()).problems
    assert "champion is version 4, which is not served; without a version, version 2 answers" in problem
    put_aliases(three.models, '{"champion": 9}')
    three.refresh()
    assert predict(three).version == 3
    [problem] = three.stub.ListModels(pb.ListModelsRequest()).problems
    assert "champion is version 9, which is not in the repository; without a version, version 3 answers" in problem


def test_rollback_is_one_command_and_twice_is_back(three: LiveServer) -> None:
    """`python -m server rollback` makes the version before answer, on a running server; again, and it is undone."""
    done = command("rollback", "pets", "--models", three.models)
    assert (done.returncode, done.stdout, done.stderr) == (0, "pets: champion 2, previous 3\n", "")
    three.refresh()
    assert predict(three).version == 2
    done = command("rollback", "pets", "--models", three.models)
    assert done.stdout == "pets: champion 3, previous 2\n"
    three.refresh()
    assert predict(three).version == 3


def test_alias_names_lists_and_removes(repository: Path) -> None:
    """A new champion makes the one before it previous; the file is whole at any time and nothing else is left."""
    models.put(repository, "pets", 2, models.classifier(seed=2))
    at = ("--models", repository)
    assert command("alias", "pets", *at).stdout == "pets: no alias; the newest version answers\n"
    assert command("alias", "pets", "champion", 1, *at).stdout == "pets: champion 1, previous 2\n"
    assert command("alias", "pets", "canary", 2, *at).stdout == "pets: canary 2, champion 1, previous 2\n"
    assert command("alias", "pets", "champion", 2, *at).stdout == "pets: canary 2, champion 2, previous 1\n"
    assert command("alias", "pets", "champion", "--remove", *at).stdout == "pets: canary 2, previous 1\n"
    assert command("alias", "pets", *at).stdout == "pets: canary 2, previous 1\n"
    assert json.loads((repository / "pets" / "aliases.json").read_text()) == {"canary": 2, "previous": 1}
    assert sorted(path.name for path in (repository / "pets").iterdir()) == ["1", "2", "aliases.json"]


FAILS = {
    "no such model": (["alias", "dogs"], 1, "there is no model 'dogs' in "),
    "a way out": (["alias", "../pets"], 1, "there is no model '../pets' in "),
    "no such version": (["alias", "pets", "champion", 7], 1, "has no version 7; it has 1"),
    "no such alias": (["alias", "pets", "champion", "--remove"], 1, "has no alias 'champion'; it has none"),
    "a bad name": (["alias", "pets", "Champion", 1], 1, "'Champion' is no alias: small letters"),
    "nothing before": (["rollback", "pets"], 1, "has no version before 1 to go back to"),
    "a name alone": (["alias", "pets", "champion"], 2, "give a name and a version, a name and --remove, or neither"),
    "remove alone": (["alias", "pets", "--remove"], 2, "--remove needs the alias"),
}


@pytest.mark.parametrize("case", FAILS)
def test_a_command_that_cannot_be_done_says_why_in_one_line(repository: Path, case: str) -> None:
    """Exit status 1, or 2 for wrong flags, one line on stderr, nothing on stdout, and no aliases file."""
    arguments, status, words = FAILS[case]
    done = command(*arguments, "--models", repository)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (repository / "pets" / "aliases.json").exists()
