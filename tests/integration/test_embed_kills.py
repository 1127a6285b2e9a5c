"""A job that is killed ends as one that is not: the short form of ``make embed-kills``."""

from __future__ import annotations

from pathlib import Path

from tests.bench.kills import hashes, survive


def test_a_killed_job_ends_byte_for_byte_as_another(small_bundle: Path, tmp_path: Path) -> None:
    report = survive(small_bundle, tmp_path, texts=1200, kills=10, split_bytes=8_000)
    assert report.kills >= 10
    assert report.finished_runs >= 1
    assert report.parts > 10


def test_the_comparison_sees_a_changed_byte(tmp_path: Path) -> None:
    """A negative control of the test above."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"same")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    (tmp_path / "b" / "part").write_bytes(b"sane")
    assert hashes(tmp_path / "a") != hashes(tmp_path / "b")
    (tmp_path / "b" / "part").write_bytes(b"same")
    (tmp_path / "b" / ".left").write_bytes(b"")
    assert hashes(tmp_path / "a") != hashes(tmp_path / "b")
