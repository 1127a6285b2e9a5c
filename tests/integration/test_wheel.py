"""The project as a stranger gets it: a wheel, an empty environment, another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command of an environment that holds the wheel and what its metadata asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: object, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=cwd, env=outside, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("adaptrt-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    run(python, *pip, "install", "-c", ROOT / "locks" / "base.txt", wheel)
    (folder / "elsewhere").mkdir()

    def adaptrt(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run(folder / "env" / "bin" / "adaptrt", *arguments, cwd=folder / "elsewhere")

    return adaptrt


def test_wheel_builds_the_sample_from_another_folder(installed: Run) -> None:
    built = installed("engine", "--target", "onnxruntime", "--parity-tokens", "64")
    bundle = built.stdout.split()[0]
    assert bundle.startswith("build/sample/classification-fp16")
    encoded = installed("encode", "--bundle", bundle, "--dimensions", "32", "Guten Tag")
    assert encoded.stdout.count(",") >= 32


def test_wheel_calibrates_with_its_own_texts(installed: Run) -> None:
    done = installed("calibrate", "--calibration-texts", "24", "--max-tokens", "64")
    assert "GEMMs" in done.stdout
