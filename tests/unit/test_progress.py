"""A build says what it does and how long each stage took."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export.console import progress
from tests.support import build, run_cli

LEVELS = {"": logging.INFO, "--quiet": logging.WARNING, "--verbose": logging.DEBUG}


def test_stage_is_logged_with_its_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SHORT", 0.2)
    progress.log.setLevel(logging.INFO)
    with progress.stage("trace"):
        time.sleep(0.2)
    assert re.fullmatch(r"  trace +\d+\.\d s", caplog.messages[-1])


def test_short_stage_needs_no_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SHORT", 60.0)
    progress.log.setLevel(logging.INFO)
    with progress.stage("trace"):
        pass
    assert caplog.messages == []


def test_long_stage_gives_signs_of_life_in_a_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "STILL", 0.05)
    progress.log.setLevel(logging.INFO)
    with progress.stage("reference"):
        time.sleep(0.3)
    assert len(caplog.messages) >= 2
    assert all(m.endswith("s so far") for m in caplog.messages)
    time.sleep(0.1)
    count = len(caplog.messages)
    time.sleep(0.2)
    assert len(caplog.messages) == count, "it goes on after the stage's end"


def test_failed_stage_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="x"), progress.stage("trace"):
        raise ValueError("x")
    assert caplog.messages == []


@pytest.mark.parametrize(("options", "shown"), [((), True), (("--quiet",), False)])
def test_build_shows_stages_without_a_terminal(
    tmp_path: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    shown: bool,
) -> None:
    monkeypatch.setattr(progress, "SHORT", 0.0)
    assert build(tmp_path, "--model", small_folder, *options) == 0
    lines = capsys.readouterr().err.splitlines()
    stages = [m[1] for line in lines if (m := re.fullmatch(r"  (\S.*?) +\d+\.\d s", line))]
    wanted = (
        {"checkpoint", "loading PyTorch", "trace", "graphs and weights", "hashes"}
        if shown
        else set()
    )
    assert wanted <= set(stages)
    assert bool(lines) == shown, "--quiet says nothing at all"


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("flag", "level"), LEVELS.items())
def test_lines_and_bars_of_every_level(
    monkeypatch: pytest.MonkeyPatch, flag: str, level: int
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress.show_on_stderr(quiet=flag == "--quiet", verbose=flag == "--verbose")
    assert progress.log.level == level
    assert progress.bars_shown() == (flag != "--quiet")
    assert list(progress.progress_bar(range(3), "texts", "text")) == [0, 1, 2]
    assert ("texts" in terminal.getvalue()) == (flag != "--quiet")
    for line in (logging.DEBUG, logging.INFO, logging.WARNING):
        progress.log.log(line, "line of %s", line)
        assert (f"line of {line}\n" in terminal.getvalue()) == (line >= level)


def test_bars_need_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress.show_on_stderr()
    assert not progress.bars_shown()
    assert list(progress.progress_bar(range(3), "texts", "text")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(("flag", "level"), LEVELS.items())
def test_every_command_takes_the_flags_before_and_after_its_name(
    small_bundle: Path, place: str, flag: str, level: int
) -> None:
    """A real command of its own: how it is run is shown to who asks, and nothing by ``--quiet``."""
    command, flags = ["verify", "--bundle", str(small_bundle)], [flag] if flag else []
    arguments = [*flags, *command] if place == "before" else [*command, *flags]
    done = subprocess.run(
        [sys.executable, "-m", "export.cli", *arguments], capture_output=True, text=True, check=True
    )
    assert "every file as built" in done.stdout
    lines = done.stderr.splitlines()
    assert ("  parity portable: by onnxruntime-cpu" in lines) == (level == logging.DEBUG)
    stages = [line for line in lines if re.fullmatch(r"  parity \w+ +\d+\.\d s", line)]
    assert len(stages) == 2 if level == logging.DEBUG else len(stages) <= 2
    if flag == "--quiet":
        assert lines == []


def test_quiet_build_says_nothing_on_a_terminal_either(
    tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert build(tmp_path, "--model", small_folder, "--quiet") == 0
    assert terminal.getvalue() == ""


def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("verify", "--bundle", "x", "--quiet", "--verbose") == 2
    assert "--verbose: not allowed with --quiet" in capsys.readouterr().err.replace("argument ", "")
