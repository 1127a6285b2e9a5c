"""The project as a stranger gets it: a wheel, an empty environment, another folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adaptrt import Embedder
from tests.api_support import api_server

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
TEXT = "Guten Tag"
EMBED = f"""
import sys
from adaptrt import Embedder
print(Embedder.load(sys.argv[1]).encode([{TEXT!r}])[0].tolist())
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder that holds nothing of the project to run it from."""

    folder: Path
    elsewhere: Path

    def run(self, program: str, *arguments: object, code: int = 0) -> str:
        """What a program of the environment prints, or with another exit code complains."""
        words = [self.folder / "bin" / program, *arguments]
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.elsewhere,
            env=OUTSIDE,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def packages(self) -> set[str]:
        return {entry["name"] for entry in json.loads(self.run("pip", "list", "--format=json"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    subprocess.run([sys.executable, *PIP, "wheel", *options], check=True, env=OUTSIDE)
    (path,) = folder.glob("adaptrt-*.whl")
    return path


def install(folder: Path, wheel: Path, extras: str, lock: str) -> Environment:
    """The wheel and what its metadata asks for with these extras, in the locked versions."""
    venv.create(folder / "env", with_pip=True)
    (folder / "elsewhere").mkdir()
    environment = Environment(folder / "env", folder / "elsewhere")
    constraints = ROOT / "locks" / lock
    environment.run("python", *PIP, "install", "-c", constraints, f"{wheel}[{extras}]")
    return environment


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    return install(tmp_path_factory.mktemp("light"), wheel, "cpu", "run.txt")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    return install(tmp_path_factory.mktemp("full"), wheel, "cpu,export", "base.txt")


def test_light_install_has_nothing_that_only_building_needs(light: Environment) -> None:
    packages = light.packages()
    assert {"adaptrt", "numpy", "onnxruntime", "tokenizers"} <= packages
    assert not packages & {"torch", "transformers", "peft", "onnx", "onnxscript", "onnx-ir"}


def test_light_install_embeds(light: Environment, small_bundle: Path) -> None:
    with Embedder.load(small_bundle) as embedder:
        expected = embedder.encode([TEXT])[0]
    line = light.run("adaptrt", "encode", "--bundle", small_bundle, TEXT)
    np.testing.assert_allclose(json.loads(line)["embedding"], expected, atol=1e-6)
    printed = light.run("python", "-c", EMBED, small_bundle)
    np.testing.assert_allclose(json.loads(printed), expected, atol=1e-6)


def test_light_install_verifies(light: Environment, small_bundle: Path) -> None:
    lines = light.run("adaptrt", "verify", "--bundle", small_bundle).splitlines()
    assert lines[0].endswith(": every file as built")
    assert {line.split(":")[0].strip() for line in lines[1:]} == {"portable", "onnxruntime"}


def test_light_install_says_what_building_lacks(light: Environment) -> None:
    error = light.run("adaptrt", "engine", code=4)
    assert error.startswith("error: this needs torch and ")
    assert error.endswith("that a light install leaves out; pip install 'adaptrt[export]'\n")
    assert error.count("\n") == 1
    missing = light.run("python", "-c", "import adaptrt; adaptrt.build()", code=1)
    assert "MissingError: this needs torch" in missing


def test_wheel_builds_the_sample_from_another_folder(full: Environment) -> None:
    built = full.run("adaptrt", "engine", "--target", "onnxruntime", "--parity-tokens", "64")
    bundle = built.split()[0]
    assert bundle.startswith("build/sample/classification-fp16")
    encoded = full.run("adaptrt", "encode", "--bundle", bundle, "--dimensions", "32", TEXT)
    assert encoded.count(",") >= 32


def test_wheel_calibrates_with_its_own_texts(full: Environment) -> None:
    done = full.run("adaptrt", "calibrate", "--calibration-texts", "24", "--max-tokens", "64")
    assert "GEMMs" in done


def test_what_the_image_installs_serves(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path, small_bundle: Path
) -> None:
    """The steps of deploy/Dockerfile, which cannot be run everywhere: its lock, its extras."""
    served = install(tmp_path_factory.mktemp("served"), wheel, "cpu,api", "server.txt")
    assert not served.packages() & {"torch", "transformers", "onnx", "openvino"}
    with Embedder.load(small_bundle) as embedder:
        expected = embedder.encode([TEXT])
        task = embedder.manifest.task
    program = [str(served.folder / "bin" / "adaptrt")]
    with api_server([small_bundle], program=program) as server:
        np.testing.assert_allclose(server.vectors(input=TEXT, task=task), expected, atol=1e-6)
        page = server.ask("GET", "/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        named = re.findall(r'(?:src|href)="([\w.]+\.(?:js|css|svg))"', page.body.decode())
        assert set(named) == {"page.js", "page.css", "icon.svg"}
        assert all(server.ask("GET", f"/{name}").status == 200 for name in named)
