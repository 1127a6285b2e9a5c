"""Temporary files and folders: gone after the block, and after a kill with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtimes.files import replacing
from runtimes.temporary import temporary_file, temporary_folder

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from runtimes.files import replacing
from runtimes.temporary import temporary_folder
with replacing(Path(sys.argv[1])) as staged, temporary_folder("adaptrt-test-") as folder:
    (folder / "weights").write_bytes(b"many")
    print(folder.parent, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return path


def test_what_a_killed_process_left_is_cleared_away_by_the_next(base: Path, tmp_path: Path) -> None:
    place = tmp_path / "calibration" / "task.json"
    place.parent.mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, place], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [p.name[:13] for p in base.iterdir()] == ["adaptrt-test-"]
    assert [p.name[:11] for p in place.parent.iterdir()] == [".task.json."]
    with temporary_folder("adaptrt-test-") as folder:
        assert list(base.iterdir()) == [folder]
        assert list(folder.iterdir()) == []
    with replacing(place) as staged:
        assert list(place.parent.iterdir()) == [staged]
        staged.write_text("new")
    assert (list(base.iterdir()), list(place.parent.iterdir())) == ([], [place])


def test_what_a_living_process_holds_stays(base: Path, tmp_path: Path) -> None:
    with temporary_folder("adaptrt-test-") as first, temporary_file(tmp_path, ".x.") as file:
        with temporary_folder("adaptrt-test-") as second, temporary_file(tmp_path, ".x."):
            assert first != second
        assert first.is_dir()
        assert file.is_file()


def test_other_files_and_links_are_left_alone(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (base / "adaptrt-test-0123456789abcdef").symlink_to(target)
    (base / "adaptrt-test-notes").mkdir()
    os.mkfifo(base / f"adaptrt-test-{'1' * 16}")
    with temporary_folder("adaptrt-test-"):
        pass
    assert target.is_dir()
    assert {p.name for p in base.iterdir()} >= {
        "adaptrt-test-notes",
        "adaptrt-test-0123456789abcdef",
    }


def test_a_file_that_was_renamed_stays(tmp_path: Path) -> None:
    with temporary_file(tmp_path, ".adaptrt-", ".npy") as path:
        path.rename(tmp_path / "vectors.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["vectors.npy"]
