"""Settings: flags beat the environment, which beats the file; nothing wrong or unknown passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from server.config import Config, load
from server.errors import ConfigError


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    """The nearest setting wins, and what none names has its default."""
    file = tmp_path / "server.toml"
    file.write_text("workers = 1\nmax_batch_rows = 2\nmax_request_rows = 3\n")
    environment = {"TOPCLASS_CONFIG": str(file), "TOPCLASS_MAX_BATCH_ROWS": "20", "TOPCLASS_MAX_REQUEST_ROWS": "30"}
    config = load(["--max-request-rows", "300"], environment)
    assert (config.workers, config.max_batch_rows, config.max_request_rows) == (1, 20, 300)
    assert config.grpc_port == 8001


def test_the_file_can_be_named_by_a_flag(tmp_path: Path) -> None:
    """--config FILE does what TOPCLASS_CONFIG does."""
    file = tmp_path / "server.toml"
    file.write_text('models = "elsewhere"\nreflection = false\nwatch_seconds = 2.5\n')
    config = load(["--config", str(file)], {})
    assert (config.models, config.reflection, config.watch_seconds) == (Path("elsewhere"), False, 2.5)


@pytest.mark.parametrize("text", ["true", "1", "yes", "TRUE"])
def test_switches_are_read_as_people_write_them(text: str) -> None:
    """true, 1 and yes switch on; a bare flag does too."""
    assert load([], {"TOPCLASS_ALLOW_EMPTY": text}).allow_empty
    assert load(["--allow-empty"], {}).allow_empty
    assert not load(["--allow-empty", "false"], {"TOPCLASS_ALLOW_EMPTY": text}).allow_empty


WRONG = {
    "a negative number": (["--workers", "-1"], "workers is -1; it must be from 0 to 1024"),
    "not a number": (["--watch-seconds", "nan"], "watch_seconds is nan; it must be at least 0"),
    "a policy": (["--version-policy", "latest:0"], "version_policy is 'latest:0'; it must be latest:N"),
    "a switch": (["--reflection", "perhaps"], "--reflection is 'perhaps'; it must be true or false"),
    "a level": (["--log-level", "loud"], "log_level is 'loud'; it must be debug"),
    "control of several processes": (["--processes", "2", "--allow-control"], "allow_control goes with processes = 1"),
    "shared memory of several processes": (
        ["--processes", "2", "--shared-memory"],
        "shared_memory goes with processes = 1",
    ),
    "a queue that is too small": (["--max-queue-rows", "5"], "the largest request could never be queued"),
    "a file that is not there": (["--config", "nowhere.toml"], "cannot read the config file nowhere.toml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_named_with_its_value_and_what_it_may_be(case: str) -> None:
    """ConfigError names the setting, the value, and what is allowed."""
    flags, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        load(flags, {})
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("threads = 3", "unknown setting in"), ("threads = ", "is not TOML")])
def test_a_wrong_file_is_told_so(tmp_path: Path, text: str, words: str) -> None:
    """An unknown key and a broken file are errors, never ignored."""
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(["--config", str(file)], {})


def test_every_setting_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help names every setting as a flag."""
    with pytest.raises(SystemExit):
        load(["--help"], {})
    text = capsys.readouterr().out
    for setting in dataclasses.fields(Config):
        assert "--" + setting.name.replace("_", "-") in text
