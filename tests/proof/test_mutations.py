"""Mutated files and command lines of every kind, each given to the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.mutations.kinds import KINDS, wanted
from tests.torture.mutations.results import done
from tests.torture.mutations.trial import work

_COUNT, _SEED = 500, 11


def test_mutated_files_and_lines_end_in_a_result_or_one_line(tmp_path: Path) -> None:
    work(tmp_path, "--seed", str(_SEED), "--count", str(_COUNT))
    found = done(tmp_path, _SEED)
    assert len(found) == sum(wanted(_COUNT, list(KINDS)).values())
    assert {result.ended for result in found.values()} > {"valid result", "exit 2"}
    if failed := [result for result in found.values() if result.seen is not None]:
        lines = "\n".join(f"{one.kind} {one.number}: {one.seen}" for one in failed)
        pytest.fail(f"{len(failed)} of {len(found)} ended as none may:\n{lines}")
