"""The short form of ``make torture``, and that its judgement sees what it is there for."""

from __future__ import annotations

import itertools
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtimes.embedder
import tests.torture.judge
from export.bundle.staging import staging
from runtimes import AdaptrtError, Embedder
from runtimes.open import open_runtime
from tests.torture.embedder import CASES, CLEAR, VALID
from tests.torture.jobs import JOBS
from tests.torture.judge import judge, run
from tests.torture.kills import disturb
from tests.torture.report import Failure, Report, read, write

LIGHT = tuple(job for job in JOBS if job.name in ("triton", "encode"))  # they load no PyTorch
# A publisher that takes the former result away first.
BROKEN = """
import shutil
from export.bundle import publish
def put(claim):
    shutil.rmtree(claim.final, ignore_errors=True)
    shutil.copytree(claim.folder, claim.final)
publish._Claim.publish = put
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder of a file system in memory, where there is one: a flush of each file takes time."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def two(small_bundle: Path, query_bundle: Path) -> tuple[Path, Path]:
    return small_bundle, query_bundle


def test_killed_commands_leave_the_former_result_or_the_new_one(
    two: tuple[Path, Path], memory: Path
) -> None:
    kills = (signal.SIGKILL,)
    report = disturb("kills", 8, 1, memory, numbers=kills, lanes=1, jobs=LIGHT, bundles=two)
    assert report.cases == 8
    assert list(report.failures) == []
    assert any(ended.startswith("killed") for ended in report.ended)


def test_commands_that_are_told_to_end_leave_nothing(two: tuple[Path, Path], memory: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    report = disturb("signals", 6, 1, memory, numbers=numbers, lanes=1, jobs=LIGHT, bundles=two)
    assert list(report.failures) == []
    assert {"exit 130", "exit 143"} & report.ended.keys()


def test_a_publisher_that_is_not_atomic_is_found(two: tuple[Path, Path], memory: Path) -> None:
    report = disturb(
        *("kills", 8, 1, memory),
        numbers=(signal.SIGKILL,),
        lanes=1,
        jobs=LIGHT[:1],
        bundles=two,
        prelude=BROKEN,
    )
    assert any("neither the former nor new" in failure.seen for failure in report.failures)


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("raise ValueError('planted')", "a traceback on standard error: ValueError: planted"),
        ("import sys; sys.exit(9)", "exit code 9"),
        ("import sys; sys.exit('error: internal\\nerror: x')", "2 lines of error"),
        ("import sys; print('error: x', file=sys.stderr); sys.exit(5)", "exit code 5"),
        ("import os; os.abort()", "exit code -6"),
        ("b = bytearray(MUCH)", " MB, at most "),
        ("import time; time.sleep(60)", "no end after"),
    ],
)
def test_the_judgement_sees_what_may_not_be(
    code: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A child's greatest size begins with that of the process that it is forked from.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    monkeypatch.setattr(tests.torture.judge, "LIMIT_MB", own + 300)
    code = code.replace("MUCH", str(int(1e6 * (own + 600))))
    limit = 1.0 if "sleep" in code else 60.0
    assert seen in (judge(run((sys.executable, "-c", code), limit=limit)).wrong or "")


def test_the_judgement_allows_one_line_and_a_documented_code() -> None:
    code = "import sys; print('error: x', file=sys.stderr); sys.exit(2)"
    assert judge(run((sys.executable, "-c", code))) == judge(run((sys.executable, "-c", code)), {2})
    assert (
        judge(run((sys.executable, "-c", code)), {0}).wrong == "exit code 2, expected [0]: error: x"
    )


@pytest.mark.parametrize("name", ["closed twice and used", "text iterator that raises"])
def test_an_embedder_under_fire(name: str, chunk_bundle: Path) -> None:
    assert CASES[name](chunk_bundle, random.Random(1)) in (VALID, CLEAR)


def test_a_bundle_replaced_while_it_is_loaded_is_loaded_again(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the new weights' vectors are given under the former manifest."""
    final = Path(shutil.copytree(two[0], tmp_path / "bundle"))
    opens = 0

    def late(*arguments: Any, **options: Any) -> Any:
        nonlocal opens
        opens += 1
        if opens == 1:
            with staging(final) as folder:
                shutil.copytree(two[1], folder, dirs_exist_ok=True)
        return open_runtime(*arguments, **options)

    monkeypatch.setattr(runtimes.embedder, "open_runtime", late)
    with Embedder.load(final) as embedder:
        assert embedder.manifest.task == "retrieval.query"
    assert opens == 2
    turns = itertools.cycle(two)

    def ever(*arguments: Any, **options: Any) -> Any:
        with staging(final) as folder:
            shutil.copytree(next(turns), folder, dirs_exist_ok=True)
        return open_runtime(*arguments, **options)

    monkeypatch.setattr(runtimes.embedder, "open_runtime", ever)
    with pytest.raises(AdaptrtError, match="was replaced 10 times while it was being read"):
        Embedder.load(final)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report("a b", 1, 2, {"exit 2": 2}, [Failure("case", "seen")], 0.5, 10.0)
    path = write(report, tmp_path)
    assert path.name == "a-b.json"
    assert read(path) == report
