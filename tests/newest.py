"""``make check-newest``: what the newest allowed versions change, run in their environment.

Builds the sample and runs the quick tests, then prints a table of what differs from the lock.
Exit code 1 where anything fails: then a range in pyproject.toml allows too much.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "locks" / "dev.txt"
SMOKE = ("tests/unit", "tests/integration/test_formats.py", "tests/integration/test_own_adapter.py")


def differences() -> Iterator[tuple[str, str, str]]:
    """Package, locked version and the one here, where both are and differ."""
    for line in LOCK.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        locked = Requirement(line)
        if locked.marker is not None and not locked.marker.evaluate():
            continue
        try:
            here = version(locked.name)
        except PackageNotFoundError:  # nothing that pip needs in this environment
            continue
        if not locked.specifier.contains(here.split("+")[0], prereleases=True):
            yield locked.name, str(locked.specifier).removeprefix("=="), here


def main() -> int:
    """Build, test, compare; the exit code."""
    with tempfile.TemporaryDirectory() as out:
        engine = ("export.cli", "engine", "--gpu", "sm89", "--out", out)
        steps = {
            "sample build": subprocess.run([sys.executable, "-m", *engine], cwd=ROOT).returncode,
            "tests": subprocess.run([sys.executable, "-m", "pytest", *SMOKE], cwd=ROOT).returncode,
        }
    print(f"\n{'package':32} {'locked':20} newest allowed")
    for row in differences():
        print("{:32} {:20} {}".format(*row))
    for name, code in steps.items():
        print(f"{name}: {'passed' if code == 0 else f'FAILED (exit code {code})'}")
    return 1 if any(steps.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
