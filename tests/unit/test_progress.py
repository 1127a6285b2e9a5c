"""A build says what it does and how long each stage took."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest

from export.console import progress
from tests.support import build


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
