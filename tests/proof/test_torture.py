"""A longer form of ``make torture`` than that among the tests: real builds, disks, forks."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.torture import conditions, shells
from tests.torture.__main__ import main
from tests.torture.embedder import CASES
from tests.torture.embedders import embedders
from tests.torture.hardships import conditions as suffer
from tests.torture.jobs import JOBS
from tests.torture.kills import disturb

BUILDS = tuple(job for job in JOBS if job.name in ("engine fp32", "engine int8", "calibrate"))
# A calibration that puts its model where nobody clears it away.
SLOVENLY = """
import tempfile
from contextlib import contextmanager
from pathlib import Path
import export.quantisation.calibrate as calibrate
@contextmanager
def folder(prefix):
    with tempfile.TemporaryDirectory(prefix=prefix) as name: yield Path(name)
calibrate.temporary_folder = folder
"""

# Nothing that dead commands left is looked for.
FORGETFUL = """
from export.bundle import publish
publish._clear_dead = lambda final: None
"""


def test_killed_builds(tmp_path: Path) -> None:
    report = disturb("kills", 12, 1, tmp_path, numbers=(signal.SIGKILL,), lanes=1, jobs=BUILDS)
    assert report.cases == 12
    assert list(report.failures) == []


def test_builds_that_are_told_to_end(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    report = disturb("signals", 8, 1, tmp_path, numbers=numbers, lanes=1, jobs=BUILDS)
    assert list(report.failures) == []


@pytest.mark.parametrize(
    ("prelude", "job", "seen"),
    [
        (SLOVENLY, "calibrate", "left behind: tmp/adaptrt-calibration-"),
        (FORGETFUL, "engine fp32", "left behind: tiny/.bundle.lock-"),
    ],
)
def test_what_nobody_clears_away_is_found(
    prelude: str, job: str, seen: str, tmp_path: Path
) -> None:
    report = disturb(
        *("kills", 10, 1, tmp_path),
        numbers=(signal.SIGKILL,),
        lanes=1,
        jobs=[one for one in JOBS if one.name == job],
        prelude=prelude,
    )
    assert any(seen in failure.seen for failure in report.failures)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_embedder_under_fire(target: str, tmp_path: Path) -> None:
    chosen = [name for name in CASES if name not in ("loaded often", "forked in use")]
    report = embedders(1, 1, tmp_path, targets=(target,), cases=chosen)
    assert list(report.failures) == []


@pytest.mark.parametrize(
    "condition",
    [conditions.full_disk, conditions.replaced_while_read, conditions.at_once, shells.limits],
    ids=lambda condition: condition.__name__,
)
def test_conditions(condition: object, tmp_path: Path) -> None:
    report = suffer(2, 1, tmp_path, chosen=[condition])  # type: ignore[list-item]
    assert list(report.failures) == []


def test_the_command_refuses_what_is_no_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), "--only", "kils"])
    assert "no trial kils; there are kills, signals" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
