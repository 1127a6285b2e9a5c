"""The command line: exit codes, one-line errors, what "auto" becomes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import export.cli
from export.build import resolve
from export.build.resolve import resolve_gpus, resolve_target
from export.cli import main
from export.engines.builder import check_gpus
from export.spec import RTX_GPUS, BuildSpec, CalibrationSpec, Limits
from runtimes.choices import Precision, Target
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.executors.tensorrt.cuda import device_sm
from runtimes.executors.tensorrt.library import load_tensorrt
from runtimes.schemes import SCHEMES
from tests.support import run_cli

no_gpu = pytest.mark.skipif(device_sm() is not None, reason="this machine has a GPU")


def failed(capsys: pytest.CaptureFixture[str], out: Path) -> str:
    """The one-line error; nothing may have been written."""
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0] == captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err
    assert not out.exists()
    return lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int4"], "PRECISION: got 'int4', expected one of auto, fp32, fp16, bf16"),
        (["--target", "coreml"], "TARGET: got 'coreml', expected one of auto, cpu, tensorrt_rtx"),
        (["--gpu", "sm90"], "GPU: sm90 is not one TensorRT-RTX"),
        (["--gpu", "rtx4090"], "GPU: got 'rtx4090', expected a name such as sm86"),
        (["--gpu", ","], "GPU: the list is empty"),
        (
            ["--allow-plan", "mask,speed"],
            "ALLOW_PLAN: got 'speed', expected one of fused-attention",
        ),
        (["--calibration-column", "x"], "CALIBRATION_COLUMN: got 'x' without CALIBRATION_DATA"),
        (["--max-batch", "0"], "MAX_BATCH: got 0, expected at least 1"),
        (["--max-tokens", "8"], "MAX_TOKENS: got 8, expected at least 16"),
        (["--max-tokens", "9000"], "MAX_TOKENS: got 9000, the model's positions end at 8192"),
        (["--parity-tokens", "0"], "PARITY_TOKENS: got 0"),
        (["--workspace", "0"], "WORKSPACE: got 0.0 GiB"),
        (["--task", ""], "TASK: got ''"),
        (["--task", "../evil"], "TASK: got '../evil'"),
        (["--task", "nope"], "TASK: "),
        (["--model", "/nowhere"], "MODEL: '/nowhere' is neither a folder nor a hub id"),
        (["--task", "all", "--adapter-path", "x"], "TASK=all with ADAPTER_PATH"),
        (["--task", "mine", "--adapter-path", "/nowhere"], "adapter_config.json: no such file"),
        (
            [
                "--task",
                "base",
                "--adapter-path",
                "/nowhere",
                "--target",
                "onnxruntime",
                "--parity-tokens",
                "1",
            ],
            "ADAPTER_PATH",
        ),
    ],
    ids=" ".join,
)
def test_bad_option_exits_2_with_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    out = tmp_path / "out"
    common = ["engine", "--target", "tensorrt_rtx", "--gpu", "sm89", "--out", out]
    assert run_cli(*common, *options) == 2
    assert words in failed(capsys, out)


def test_refused_gpu_lists_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli("engine", "--gpu", "sm89,sm90", "--target", "tensorrt_rtx", "--out", tmp_path / "out")
    error = failed(capsys, tmp_path / "out")
    assert "sm90" in error
    assert all(name in error for name in ("sm86", "sm89", "sm120", "TARGET=tensorrt"))


@no_gpu
def test_full_tensorrt_without_a_gpu_exits_4_and_names_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("engine", "--target", "tensorrt", "--out", tmp_path / "out") == 4
    error = failed(capsys, tmp_path / "out")
    assert "TARGET=tensorrt" in error
    assert "TARGET=tensorrt_rtx" in error


def test_missing_library_exits_4_with_the_install_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert run_cli("engine", "--target", "tensorrt_rtx", "--out", tmp_path / "out") == 4
    assert "pip install tensorrt-rtx-cu13-libs" in failed(capsys, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "code"),
    [(AdaptrtError, 1), (InputError, 2), (GateError, 3), (MissingError, 4)],
)
def test_each_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[AdaptrtError],
    code: int,
) -> None:
    def fail(_: Any) -> int:
        raise error("what, got, expected")

    monkeypatch.setattr(export.cli, "_engine", fail)
    assert main(["engine"]) == code
    assert capsys.readouterr().err == "error: what, got, expected\n"


def broken_by_an_interrupt() -> None:
    """As PyTorch does where Ctrl-C comes while it imports a part of itself."""
    try:
        try:
            raise KeyboardInterrupt
        except ValueError.missing:  # type: ignore[attr-defined]
            pass
    except AttributeError as error:
        raise RuntimeError("Failed to export the model") from error


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [interrupt, broken_by_an_interrupt])
def test_interrupt_exits_130_and_says_nothing_unfinished_was_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fail: Callable[[], None]
) -> None:
    monkeypatch.setattr(export.cli, "_engine", lambda _: fail())
    assert main(["engine"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing unfinished was published\n"


@no_gpu
@pytest.mark.parametrize("library", [True, False])
def test_auto_is_tensorrt_rtx_without_a_gpu(monkeypatch: pytest.MonkeyPatch, library: bool) -> None:
    spec = importlib.util.find_spec("json") if library else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert resolve_target("auto", "sm89") == (Target.TENSORRT_RTX, ("sm89",))


@pytest.mark.parametrize(
    ("library", "expected"),
    [(True, (Target.TENSORRT, ("sm90",))), (False, (Target.TENSORRT_RTX, ("sm86",)))],
)
def test_auto_is_full_tensorrt_where_library_and_gpu_are(
    monkeypatch: pytest.MonkeyPatch, library: bool, expected: tuple[Target, tuple[str, ...]]
) -> None:
    """The driver's answer is all that is replaced; the list's GPUs give way to the one present."""
    spec = importlib.util.find_spec("json") if library else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(resolve, "device_sm", lambda: "sm90")
    assert resolve_target("auto", "sm86") == expected


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("sm86,sm89", ("sm86", "sm89")),
        (" SM89 , ,sm120,", ("sm89", "sm120")),
        ("", ()),
        ("sm89,sm89", ("sm89",)),
    ],
)
def test_gpu_list_is_cleaned(listed: str, expected: tuple[str, ...]) -> None:
    assert resolve_target("tensorrt_rtx", listed)[1] == expected


@pytest.mark.parametrize("precision", Precision)
def test_auto_gpus_are_those_that_multiply_the_precision(precision: Precision) -> None:
    found = resolve_target("tensorrt_rtx", resolve_gpus("auto", SCHEMES[precision]))[1]
    older = () if precision is Precision.FP8 else ("sm86",)
    assert found == (*older, "sm89", "sm120")
    assert resolve_gpus("sm86", SCHEMES[precision]) == "sm86"  # what was asked for stays


@pytest.mark.parametrize("gpu", ["sm86", "sm120,sm75"])
def test_fp8_on_older_gpus_is_refused_before_work(
    gpu: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--target", "tensorrt_rtx", "--gpu", gpu, "--model", tmp_path / "none")
    assert run_cli("engine", "--precision", "fp8", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    older = gpu.split(",")[-1]
    assert line == (
        f"error: GPU: {older} multiplies no FP8; PRECISION=fp8 is for sm89 and newer, of RTX "
        "cards sm89, sm120, sm121"
    )


def test_full_tensorrt_takes_fp8_where_the_gpu_does(tmp_path: Path) -> None:
    def spec(gpu: str) -> BuildSpec:
        return BuildSpec(
            model="m",
            task="t",
            precision=Precision.FP8,
            target=Target.TENSORRT,
            gpus=(gpu,),
            out=tmp_path,
        )

    assert spec("sm90").gpus == ("sm90",)
    with pytest.raises(InputError, match="GPU: sm80 multiplies no FP8"):
        spec("sm80")


def test_known_gpus_are_those_of_the_builder() -> None:
    """What the refusal names."""
    trt = load_tensorrt(Target.TENSORRT_RTX)
    check_gpus(trt, RTX_GPUS)
    known = {n.lower() for n in dir(trt.ComputeCapability) if n.startswith("SM")}
    assert known == set(RTX_GPUS)


def test_onnxruntime_needs_no_gpu_list(tmp_path: Path) -> None:
    target, gpus = resolve_target("onnxruntime", "")
    BuildSpec(model="m", task="t", precision=Precision.FP32, target=target, gpus=gpus, out=tmp_path)


@pytest.mark.parametrize("task", ["all", "my-task.v2", "a" * 64])
def test_sound_task_names_are_taken(tmp_path: Path, task: str) -> None:
    spec = BuildSpec(
        model="m", task=task, precision=Precision.FP16, target=Target.ONNXRUNTIME, out=tmp_path
    )
    assert spec.task == task


@pytest.mark.parametrize("task", ["a/b", ".hidden", "-x", "a" * 65, "tab\t", "ü", "a\n"])
def test_task_names_that_are_no_folder_names_are_refused(tmp_path: Path, task: str) -> None:
    with pytest.raises(InputError, match="TASK: got"):
        BuildSpec(
            model="m", task=task, precision=Precision.FP16, target=Target.ONNXRUNTIME, out=tmp_path
        )


@pytest.mark.parametrize("field", ["data", "table"])
def test_ranges_are_refused_where_nothing_is_quantised(tmp_path: Path, field: str) -> None:
    """Nothing that the user names is ignored in silence."""
    ranges: dict[str, Any] = {field: tmp_path}
    with pytest.raises(InputError, match=r"are for PRECISION=int8 or .*, got PRECISION=fp16"):
        BuildSpec(
            model="m",
            task="t",
            precision=Precision.FP16,
            target=Target.ONNXRUNTIME,
            out=tmp_path,
            calibration=CalibrationSpec(**ranges),
        )


def test_defaults_are_the_published_ones(tmp_path: Path) -> None:
    spec = BuildSpec(
        model="m", task="t", precision=Precision.FP16, target=Target.TENSORRT_RTX, out=tmp_path
    )
    assert spec.gpus == ("sm86", "sm89", "sm120")
    assert spec.limits == Limits(max_batch=32, max_tokens=8192)


@pytest.mark.parametrize("command", ["verify", "encode"])
def test_missing_bundle_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run_cli(command, "--bundle", tmp_path / "absent", *(["x"] * (command == "encode"))) == 2
    assert "BUNDLE: " in failed(capsys, tmp_path / "absent")
