"""The script that builds an engine on a device, where nothing else is."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import export.engines.device_files
from export.engines.profiles import engine_profiles
from export.spec import GraphForm, Limits
from runtimes.choices import AdapterMode, HeadName

SCRIPT = Path(export.engines.device_files.__file__).with_name("device") / "build_engine.py"


def bare_script(*flags: str) -> subprocess.CompletedProcess[str]:
    """Alone: no bundle around it, no TensorRT under that name, no module of ours."""
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, *flags], capture_output=True, text=True, check=False
    )


def test_device_script_helps_without_tensorrt_and_without_a_bundle() -> None:
    done = bare_script("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for flag in ("--minShapes", "--memPoolSize workspace:MIB", "--saveEngine FILE"):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--optShapes=8", "as in 8x256"),
        ("--builderOptimizationLevel=9", "invalid choice"),
        ("--maxShapes=4x512", "manifest.json: [Errno 2] No such file"),
    ],
)
def test_device_script_refuses_flags_without_tensorrt(flag: str, words: str) -> None:
    done = bare_script(flag)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "tensorrt" not in done.stderr.lower()


def test_device_script_is_python_3_10() -> None:
    """It imports nothing of ours and has no later syntax."""
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 10))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
        )
    }
    own = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert own == {"tensorrt"}


@pytest.mark.parametrize("head", HeadName)
@pytest.mark.parametrize("adapter", [AdapterMode.MERGED, AdapterMode.SWITCHABLE])
def test_device_script_gives_every_input_the_shapes_that_the_builder_gives_it(
    adapter: AdapterMode, head: HeadName
) -> None:
    """It knows of no input by itself: chunk_weights used to get the shape of a batch of ids."""
    script = runpy.run_path(str(SCRIPT))
    inputs = GraphForm(adapter, head=head).inputs
    entries = json.loads(json.dumps([asdict(tensor) for tensor in inputs]))
    for profile in engine_profiles(("short", "long"), Limits()):
        ranges = json.loads(json.dumps(asdict(profile)))
        for entry, tensor in zip(entries, inputs, strict=True):
            assert script["input_shapes"](entry["axes"], ranges) == list(tensor.shapes_in(profile))


class Config:
    """Takes a timing cache of the ``fitting`` bytes alone, as a config does that checks them."""

    def __init__(self, *fitting: bytes) -> None:
        self.fitting, self.used = fitting, b"none"

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache in self.fitting:
            self.used = cache
        return cache in self.fitting


@pytest.mark.parametrize(
    ("known", "used", "words"),
    [(b"mine", b"mine", ""), (b"other", b"", "it begins anew")],
    ids=["this GPU's", "another GPU's"],
)
def test_timing_cache_of_another_gpu_begins_anew(
    known: bytes, used: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to be left out in silence, and the next build measured everything again."""
    config = Config(b"", b"mine")
    runpy.run_path(str(SCRIPT))["use_timing_cache"](config, known)
    assert config.used == used
    assert words in capsys.readouterr().err


def test_config_without_timing_caches_says_which_flag_to_leave_out() -> None:
    with pytest.raises(SystemExit, match="leave --timingCacheFile out"):
        runpy.run_path(str(SCRIPT))["use_timing_cache"](Config(), b"")


def test_interrupted_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timing cache used to be written in place."""
    script, cache = runpy.run_path(str(SCRIPT)), tmp_path / "timings"
    cache.write_bytes(b"before")
    monkeypatch.setattr(Path, "replace", lambda *_: sys.exit("killed"))
    with pytest.raises(SystemExit, match="killed"):
        script["write"](cache, b"after")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
    calls = [node for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.Call)]
    named = [call.func.attr for call in calls if isinstance(call.func, ast.Attribute)]
    assert named.count("write_bytes") == 1  # the one in write()


def test_shapes_of_a_profile() -> None:
    short, long = engine_profiles(("short", "long"), Limits())
    ids, _, task_id, weights = GraphForm(AdapterMode.SWITCHABLE, head=HeadName.CHUNKS).inputs
    assert ids.shapes_in(short) == ((1, 1), (8, 256), (32, 512))
    assert task_id.shapes_in(long) == ((1,), (1,), (4,))
    assert weights.shapes_in(long) == ((1, 1, 512), (1, 8, 4096), (4, 1024, 8192))
