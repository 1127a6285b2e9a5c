"""A Jetson's row fills in what was not given, and what it cannot hold is refused with the sum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import export.engines.device_memory
from export.build.resolve import engine_spec
from export.checkpoint.config import read_config
from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.source import SAMPLE
from export.devices import DEVICES
from export.engines.device_memory import activation_bytes, layer_bytes, require_fits
from export.engines.profiles import engine_profiles
from export.request import BuildRequest
from export.spec import Limits
from runtimes.choices import Target
from runtimes.errors import InputError
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS
from tests.support import run_cli

LARGE_WEIGHTS = 1.14e9  # of the published model in FP16


@pytest.fixture(scope="module")
def large() -> EncoderConfig:
    config = read_config(SAMPLE)[1]
    return replace(config, hidden=1024, heads=16, layers=24, intermediate=4096, vocab=250_002)


@pytest.mark.parametrize("name", DEVICES)
def test_preset_holds_the_large_model(name: str, large: EncoderConfig, tmp_path: Path) -> None:
    """In FP16; the 4 GB module what INT8, its table too, and fewer tokens leave of it."""
    spec = engine_spec(BuildRequest(model=str(SAMPLE), device=name, out=tmp_path))
    device = DEVICES[name]
    assert spec.target is Target.TENSORRT10
    assert (spec.limits.max_batch, spec.limits.max_tokens) == (device.max_batch, device.max_tokens)
    assert ",".join(spec.profiles) == device.profiles
    assert spec.workspace_gib == device.workspace
    weights = 0.4e9 if device.memory < 8 else LARGE_WEIGHTS
    require_fits(spec, large, weights, least=False)


def test_what_is_given_wins(tmp_path: Path) -> None:
    request = BuildRequest(
        model=str(SAMPLE), device="orin-nano", max_batch=2, max_tokens=128, workspace=0.5
    )
    spec = engine_spec(request)
    assert (spec.limits.max_batch, spec.limits.max_tokens) == (2, 128)
    assert (spec.workspace_gib, spec.profiles) == (0.5, ())
    named = engine_spec(replace(request, profiles="short"))
    assert named.profiles == ("short",)


def test_without_a_device_nothing_changes() -> None:
    spec = engine_spec(BuildRequest(model=str(SAMPLE), target="onnxruntime"))
    assert (spec.limits, spec.workspace_gib, spec.profiles) == (Limits(), 8.0, ())
    assert engine_spec(BuildRequest(model=str(SAMPLE), target="tensorrt10")).workspace_gib == 2.0


def test_engine_that_does_not_fit_is_refused_with_the_sum(large: EncoderConfig) -> None:
    request = BuildRequest(
        model=str(SAMPLE), device="orin-nano", max_batch=32, max_tokens=8192, profiles=""
    )
    spec = engine_spec(request)
    words = r"8 GB, of which 70% are free = 5.60 GB, but the engine needs .* run: weights at least "
    with pytest.raises(InputError, match=words) as error:
        require_fits(spec, large, layer_bytes(spec, large), least=True)
    assert "\n" not in str(error.value)
    fitting = engine_spec(replace(request, max_batch=4))
    require_fits(fitting, large, LARGE_WEIGHTS, least=False)
    with pytest.raises(InputError, match=r"be built: weights twice, 6\.00 GB"):
        require_fits(fitting, large, 3e9, least=False)


def test_workspace_counts(large: EncoderConfig) -> None:
    spec = engine_spec(BuildRequest(model=str(SAMPLE), device="orin-nano", workspace=8.0))
    with pytest.raises(InputError, match=r"WORKSPACE 8\.59 GB"):
        require_fits(spec, large, LARGE_WEIGHTS, least=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "orin"}, "DEVICE: got 'orin', expected one of orin-nano, "),
        ({"target": "onnxruntime"}, "is for TARGET=tensorrt10, got TARGET=onnxruntime"),
        ({"precision": "fp8"}, "sm87 multiplies no FP8"),
    ],
)
def test_wrong_device_is_refused(changes: dict[str, Any], words: str) -> None:
    request = BuildRequest(model=str(SAMPLE), device="orin-nx")
    with pytest.raises(InputError, match=words):
        engine_spec(replace(request, **changes))


@pytest.mark.parametrize(
    ("dtype", "batch", "tokens", "reported"),
    [
        ("float16", 8, 512, 76_025_856),
        ("float16", 4, 2048, 152_051_712),
        ("float16", 1, 8192, 152_051_712),
        ("float32", 8, 512, 395_120_640),
        ("float32", 4, 2048, 2_392_662_016),
    ],
)
def test_estimate_is_what_tensorrt_rtx_reports(
    large: EncoderConfig, dtype: str, batch: int, tokens: int, reported: int
) -> None:
    """Of the primitive graph for sm86, 2026-11-29."""
    profiles = engine_profiles((), Limits(max_batch=batch, max_tokens=tokens))
    estimate = activation_bytes(large, dtype, profiles, (INPUT_IDS, ATTENTION_MASK))
    assert 0.98 * reported < estimate < 1.1 * reported


def test_weights_in_the_files_count(
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The layers alone fit, and with the table it is too much: nothing is published."""
    tiny = replace(DEVICES["orin-nano"], memory=0.0034, workspace=1e-6)  # 2.4 MB
    monkeypatch.setitem(DEVICES, "orin-nano", tiny)
    monkeypatch.setattr(export.engines.device_memory, "CONTEXT", 0.0)
    options = ("--model", small_folder, "--device", "orin-nano", "--max-batch", 1)
    sizes = ("--max-tokens", 64, "--profiles", "", "--parity-tokens", 16)
    out = tmp_path / "out"
    assert run_cli("engine", *options, *sizes, "--out", out) == 2
    assert "to be built: weights twice, 0.00 GB" in capsys.readouterr().err
    assert [path for path in out.rglob("*") if path.is_file()] == []
