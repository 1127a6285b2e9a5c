"""Which kind a CPU is, what is recommended on it, and what the page says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.build import resolve
from export.build.resolve import engine_spec, resolve_on_cpu
from export.request import BuildRequest
from runtimes.choices import Precision, Target
from runtimes.cpu_kinds import CPU_KINDS, Cpu, CpuKind, cpu_kind, read_cpu
from runtimes.errors import InputError
from tests.documents import DOCS

ZEN4 = "fpu avx2 avx512f avx512_bf16 avx512_vnni"
AMX = f"{ZEN4} amx_bf16 amx_tile amx_int8"


def cpu(flags: str | None, machine: str = "x86_64") -> Cpu:
    known = None if flags is None else frozenset(flags.split())
    return Cpu(machine=machine, flags=known, model="a CPU", cores=2)


def on(patch: pytest.MonkeyPatch, flags: str | None) -> None:
    patch.setattr(resolve, "read_cpu", lambda: cpu(flags))


@pytest.mark.parametrize(
    ("flags", "machine", "label"),
    [
        (AMX, "x86_64", "AMX"),
        (AMX.replace("amx_int8", ""), "x86_64", "AVX512_BF16 and VNNI"),
        (ZEN4, "x86_64", "AVX512_BF16 and VNNI"),
        (ZEN4, "amd64", "AVX512_BF16 and VNNI"),
        (ZEN4.replace("avx512_bf16", ""), "x86_64", "VNNI without BF16"),
        ("avx2 avx_vnni", "x86_64", "VNNI without BF16"),
        (ZEN4.replace("avx512_vnni", ""), "x86_64", "AVX2 without VNNI"),
        ("avx2", "x86_64", "AVX2 without VNNI"),
        ("avx", "x86_64", "any other"),
        (None, "x86_64", "any other"),
        ("asimd asimddp", "aarch64", "ARM"),
        (None, "arm64", "ARM"),
        (ZEN4, "riscv64", "any other"),
    ],
)
def test_first_row_that_fits(flags: str | None, machine: str, label: str) -> None:
    assert cpu_kind(cpu(flags, machine)).label == label


def test_cpu_is_read_from_the_system(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A 9000: fast\nflags\t\t: fpu avx2\n\n")
    found = read_cpu(path, "X86_64")
    assert (found.machine, found.model) == ("x86_64", "A 9000: fast")
    assert found.flags == frozenset({"fpu", "avx2"})
    assert found.cores >= 1
    path.write_text("CPU implementer\t: 0x41\nFeatures\t: asimd\nCPU part\t: 0xd40\n")
    arm = read_cpu(path, "aarch64")
    assert (arm.model, arm.flags) == ("0x41 0xd40", frozenset({"asimd"}))


@pytest.mark.parametrize("text", [None, "", "processor : 0\n"])
def test_a_system_that_says_nothing_is_no_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert read_cpu(path, "x86_64").flags is None
    assert read_cpu(path, "x86_64").model == "x86_64"


@pytest.mark.parametrize("kind", CPU_KINDS, ids=lambda kind: kind.label)
def test_int8_is_recommended_where_it_is_fast(kind: CpuKind) -> None:
    """What ONNX Runtime does without VNNI is exact and slow."""
    multiplies = kind.label in {"AMX", "AVX512_BF16 and VNNI", "VNNI without BF16", "ARM"}
    assert (kind.int8 is not None) == multiplies
    assert kind.floats.rest is None
    assert kind.int8 is None or (kind.int8.rest is None) == (kind.int8.target != "openvino")


@pytest.mark.parametrize(
    ("target", "precision", "flags", "expected"),
    [
        ("cpu", "auto", ZEN4, ("openvino", "bf16")),
        ("cpu", "auto", "avx2 avx_vnni", ("onnxruntime", "fp32")),
        ("cpu", "int8", ZEN4, ("openvino", "int8")),
        ("cpu", "int8", "avx2 avx_vnni", ("onnxruntime", "int8")),
        ("cpu", "int8", "avx2", ("onnxruntime", "int8")),
        ("cpu", "bf16", AMX, ("openvino", "bf16")),
        ("cpu", "fp32", AMX, ("onnxruntime", "fp32")),
        ("cpu", "fp16", ZEN4, ("onnxruntime", "fp16")),
        ("onnxruntime", "auto", ZEN4, ("onnxruntime", "fp32")),
        ("openvino", "auto", ZEN4, ("openvino", "bf16")),
        ("openvino", "auto", "avx2 avx_vnni", ("openvino", "fp32")),
        ("tensorrt_rtx", "fp16", ZEN4, ("tensorrt_rtx", "fp16")),
        ("auto", "bf16", ZEN4, ("auto", "bf16")),
    ],
)
def test_cpu_and_auto_are_what_the_row_says(
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    precision: str,
    flags: str,
    expected: tuple[str, str],
) -> None:
    on(monkeypatch, flags)
    assert resolve_on_cpu(target, precision) == expected


@pytest.mark.parametrize("target", ["auto", "tensorrt", "tensorrt_rtx", "tensorrt10"])
def test_auto_precision_is_for_cpus(target: str) -> None:
    message = f"PRECISION=auto: got TARGET={target}, expected one that is for CPUs .cpu, onnxr"
    with pytest.raises(InputError, match=message):
        resolve_on_cpu(target, "auto")


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        ("mispelt", "auto", "TARGET: got 'mispelt', expected one of auto, cpu, tensorrt_rtx"),
        ("cpu", "mispelt", "PRECISION: got 'mispelt', expected one of auto, fp32"),
        ("cpu", "fp8", "TARGET=onnxruntime multiplies no FP8"),
    ],
)
def test_what_there_is_not_is_refused(target: str, precision: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine_spec(BuildRequest(target=target, precision=precision, model="m"))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (ZEN4, "AVX512_BF16 and VNNI; built for openvino in bf16 (measured on Zen 4 and Zen 5)"),
        (AMX, "AMX; built for openvino in bf16 (predicted)"),
    ],
)
def test_choice_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flags: str, line: str
) -> None:
    on(monkeypatch, flags)
    with caplog.at_level("INFO", "adaptrt"):
        spec = engine_spec(BuildRequest(target="cpu", precision="auto", model="m"))
    assert caplog.messages[0] == f"CPU: {line}"
    assert (spec.target, spec.precision) == (Target.OPENVINO, Precision.BF16)
    assert spec.requested_target == "cpu"


def test_int8_without_its_instructions_is_built_and_advised_against(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on(monkeypatch, "avx2")
    with caplog.at_level("INFO", "adaptrt"):
        resolve_on_cpu("cpu", "int8")
    assert caplog.messages[1] == "CPU: INT8 is not recommended on it; onnxruntime in fp32 is"


def page_row(kind: CpuKind) -> str:
    """A row as the page has it."""
    flags = ", ".join(" or ".join(f"`{f}`" for f in sorted(any_of)) for any_of in kind.flags)
    cells = (
        *(kind.label, kind.examples, flags, str(kind.floats)),
        *("not recommended" if kind.int8 is None else str(kind.int8), kind.basis),
    )
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def test_page_has_the_rows_in_their_order() -> None:
    lines = (DOCS / "tasks" / "cpu.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| kind | such as | flags | float | INT8 | basis |") + 2
    assert lines[start : start + len(CPU_KINDS)] == [page_row(kind) for kind in CPU_KINDS]
    assert not lines[start + len(CPU_KINDS)].startswith("|")
