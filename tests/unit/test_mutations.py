"""The judgement of mutated files sees what is planted; a short run of the mutations themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.torture.mutations.edits import edit_bytes, edit_json
from tests.torture.mutations.kinds import KINDS, order, wanted
from tests.torture.mutations.results import Result, done
from tests.torture.mutations.trial import report_of, work


def test_planted_defects_are_seen(tmp_path: Path) -> None:
    """Negative controls: a traceback, a hang, a hoard, a silent change, a stray file and others."""
    command = [sys.executable, "-m", "tests.torture.mutations.planted", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    verdicts = json.loads(said.stdout)
    assert len(verdicts) == 18
    for name, verdict in verdicts.items():
        if name.strip():
            assert name in (verdict["seen"] or ""), name
        else:
            assert verdict["seen"] is None, verdict


def test_edits_follow_from_their_seed_and_change_something() -> None:
    raw = json.dumps({"a": [1, 2.5, "x"], "b": {"c": True, "d": None}}).encode()
    for edit in (edit_bytes, edit_json):
        made = [edit(Random(seed), raw)[0] for seed in range(60)]
        assert made == [edit(Random(seed), raw)[0] for seed in range(60)]
        assert sum(content != raw for content in made) > 50
        assert len(set(made)) > 40


def test_full_run_is_of_ten_thousand_files_and_two_thousand_lines() -> None:
    counts = wanted(None, list(KINDS))
    assert counts.pop("command-line") == 2000
    assert sum(counts.values()) == 10_000
    cases = list(order(wanted(600, list(KINDS)), 1))
    assert len(set(cases)) == len(cases)
    assert {kind for kind, _ in cases[:60]} == set(KINDS)


def test_cases_of_a_killed_worker_count_and_its_last_line_does_not(tmp_path: Path) -> None:
    line = {"kind": "graph", "number": 3, "ended": "exit 2", "seen": None}
    whole = json.dumps(line | {"seconds": 0.5, "cpu": 0.1, "peak_mb": 200.0})
    (tmp_path / "results-7.all.0of1.jsonl").write_text(f"{whole}\n{whole[:20]}")
    found = done(tmp_path, 7)
    assert list(found) == [("graph", 3)]
    assert isinstance(found["graph", 3], Result)
    report = report_of("graph", 5, 7, found)
    assert (report.cases, report.asked, report.ended) == (1, 5, {"exit 2": 1})


def test_mutated_files_end_in_a_result_or_one_line(tmp_path: Path) -> None:
    """A short run; tests/proof has a longer one, of every kind."""
    kinds = ["checkpoint", "configuration", "tokenizer", "manifest", "graph", "bundle-data"]
    work(tmp_path, "--seed", "3", "--kind", ",".join(kinds), "--count", "20", "--few")
    found = done(tmp_path, 3)
    assert len(found) == sum(wanted(20, kinds).values())
    assert {kind for kind, _ in found} == set(kinds)
    if failed := [result for result in found.values() if result.seen is not None]:
        pytest.fail(f"{failed[0].kind} {failed[0].number}: {failed[0].seen}")
