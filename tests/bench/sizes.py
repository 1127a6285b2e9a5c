"""What installs take on the disk: ``make sizes``.

Packages are counted in this environment by what they need of each other: ``pip install '.[cpu]'``
brings the requirements of that part and theirs. A package's size is that of the files that it
says it wrote. Triton's server has an environment of its own, which is counted whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER, ROOT
from tests.bench.summary import machine

REPORT = FOLDER / "builds" / "sizes.json"
# The last is what a clone has: locks/base.txt.
INSTALLS = {
    "[cpu]": ("cpu",),
    "[cpu,export]": ("cpu", "export"),
    "[cpu,openvino,export]": ("cpu", "openvino", "export"),
}
OURS = ("adaptrt", "runtimes", "calibration", "export")
_LARGEST = 4
_NAMES = {"numpy": "NumPy", "onnxruntime": "ONNX Runtime", "tensorrt-rtx-cu13-libs": "TensorRT-RTX"}


def needed(extras: tuple[str, ...]) -> dict[str, int]:
    """Bytes of each package that an install brings, ours included."""
    found = {"adaptrt": sum(_bytes(ROOT / name) for name in OURS)}
    queue = [("adaptrt", extra) for extra in ("", *extras)]
    done = set(queue)
    while queue:
        name, extra = queue.pop()
        for line in distribution(name).requires or ():
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            key = canonicalize_name(wanted.name)
            found.setdefault(key, _written(distribution(key)))
            more = {(key, asked) for asked in ("", *wanted.extras)} - done
            queue += more
            done |= more
    return found


def _written(package: Distribution) -> int:
    paths = (Path(str(package.locate_file(file))) for file in package.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def _bytes(folder: Path) -> int:
    """Of files below a folder; what Python compiles for itself is not counted."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.suffix != ".pyc")


def report_of(triton: Path) -> dict[str, Any]:
    """What is committed. Raises FileNotFoundError without Triton's environment."""
    if not (triton / ".installed").is_file():
        raise FileNotFoundError(f"{triton} is not installed")
    return {
        "command": "make sizes",
        "machine": machine(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "date": datetime.now(UTC).date().isoformat(),
        "installs": {name: _install(needed(extras)) for name, extras in INSTALLS.items()},
        "triton": _bytes(triton),
    }


def _install(packages: Mapping[str, int]) -> dict[str, Any]:
    largest = sorted(packages, key=lambda name: -packages[name])[:_LARGEST]
    return {
        "packages": len(packages),
        "bytes": sum(packages.values()),
        "largest": {name: packages[name] for name in largest},
    }


def table() -> str:
    """The committed report: a row per install."""
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    rows = [
        (
            f"`{name}`",
            str(found["packages"]),
            f"{found['bytes'] / 1e6:.0f} MB",
            ", ".join(f"{_NAMES.get(n, n)} {b / 1e6:.0f} MB" for n, b in found["largest"].items()),
        )
        for name, found in report["installs"].items()
    ]
    caption = (
        f"*In the locked versions, Linux, x86-64, Python {report['python']}, torch built for CPUs; "
        f"pip and setuptools are not counted; {report['date']}*"
    )
    head = ("", "packages", "on disk", "largest")
    return "\n\n".join([markdown(head, rows), caption])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triton", type=Path, required=True, help="its environment")
    report = report_of(parser.parse_args().triton)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
