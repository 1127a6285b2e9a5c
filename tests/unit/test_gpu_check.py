"""``make gpu-check`` and ``make bench-gpu`` where no GPU is, and the parts that need none."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx

import export.build.judging
import tests.bench.gpu
import tests.gpu.check
import tests.gpu.int8_first
from export import cli
from runtimes.choices import PlanRule, Precision
from runtimes.errors import AdaptrtError
from runtimes.executors.base import Runtime, RuntimeBase
from runtimes.open import EXECUTORS
from runtimes.schemes import SCHEMES
from tests.bench.gpu import OF_TORCH, RTX_GPUS, Contender, Workplace, contenders, rows_of, table
from tests.bench.gpu_cases import PADDED, compared, padded
from tests.bench.gpu_worker import measure
from tests.gpu.check import GATES, PRECISIONS, summary, verdict
from tests.gpu.device import Gpu, find_gpu
from tests.gpu.int8_first import NAME
from tests.gpu.int8_first import compare as compare_texts
from tests.gpu.steps import DONE, FAILED, NOT_RUN, ROOT, Outcome, run_step

NO_GPU = isinstance(find_gpu(), str)
CARD = Gpu("Test card", "sm89", "13.0", 24.0)


@pytest.mark.skipif(not NO_GPU, reason="a GPU is there")
@pytest.mark.parametrize("module", ["tests.gpu.check", "tests.bench.gpu"])
def test_without_a_gpu_it_lists_what_is_missing_and_exits_4(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--out", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4
    assert "error: no NVIDIA driver" in done.stderr or "error: no NVIDIA GPU" in done.stderr
    assert "torch " in done.stderr
    assert "tensorrt " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_orchestrator_needs_the_standard_library_alone() -> None:
    """A CUDA image may carry any of the packages in a broken state."""
    heavy = ("numpy", "torch", "onnx", "tqdm")
    code = f"import sys, tests.gpu.check; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_gates_are_those_of_the_schemes() -> None:
    assert {name: SCHEMES[Precision(name)].min_cosine for name in GATES} == GATES
    assert set(PRECISIONS) < set(GATES)  # fp8 is not for every GPU: where it is asked for


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("print('words'); print('{\"a\": 1}')", DONE, ""),
        ("import sys; print('error: no GPU', file=sys.stderr); sys.exit(4)", NOT_RUN, "no GPU"),
        (
            "import sys; print('error: PRECISION', file=sys.stderr); sys.exit(2)",
            NOT_RUN,
            "PRECISION",
        ),
        ("import sys; sys.exit(2)", FAILED, "no message"),
        ("import sys; print('error: parity', file=sys.stderr); sys.exit(3)", FAILED, "parity"),
        ("raise RuntimeError('boom')", FAILED, "RuntimeError: boom"),
        ("import os; os.abort()", FAILED, "killed by SIGABRT; last words: "),
        ("import time; time.sleep(60)", FAILED, "took longer than 2 s"),
    ],
)
def test_step_ends_as_it_should(code: str, status: str, reason: str) -> None:
    outcome = run_step("step", ["-c", code], timeout=2)
    assert (outcome.status, outcome.result) == (status, {"a": 1} if status == DONE else {})
    assert outcome.reason.startswith(reason)


def test_step_that_takes_too_long_takes_its_children_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"import subprocess, pathlib, time; p = subprocess.Popen(['sleep', '60']); "
        f"pathlib.Path({str(note)!r}).write_text(str(p.pid)); time.sleep(60)"
    )
    assert run_step("step", ["-c", code], timeout=2).status == FAILED
    status = Path(f"/proc/{note.read_text()}/status")
    end = time.monotonic() + 10  # on busy cores a killed process still waits for its last turn
    while alive(status) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(status)


def alive(status: Path) -> bool:
    try:
        return "zombie" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def timed(contender: str, number: int, **seconds: float) -> Outcome:
    cases = {case: {"seconds": value} for case, value in seconds.items()}
    return Outcome("time", DONE, result={"contender": contender, "round": number, "cases": cases})


def test_ratios_are_within_a_round() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    who = [Contender("torch", "fp16"), Contender("tensorrt", "fp16"), Contender("tensorrt", "int8")]
    steps = [
        timed("torch fp16", 0, **{"1x128": 0.004}),
        timed("tensorrt fp16", 0, **{"1x128": 0.002}),
        timed("torch fp16", 1, **{"1x128": 0.008}),
        timed("tensorrt fp16", 1, **{"1x128": 0.004}),
        timed("tensorrt int8", 1, **{"1x128": 0.002}),
    ]
    rows = {(r["executor"], r["precision"]): r for r in rows_of(steps, who)}
    fp16 = rows["tensorrt", "fp16"]
    assert fp16["times_torch_range"] == [2.0, 2.0]
    assert fp16["milliseconds"] == pytest.approx(3.0)
    assert fp16["tokens_per_second"] == pytest.approx(128 / 0.003)
    assert fp16["target"] == 1.3
    assert rows["torch", "fp16"]["target"] is None
    assert rows["tensorrt", "int8"]["times_torch"] == 4.0
    line = "| 1x128 | tensorrt | fp16 | 3.00 | 42667 | 2.00 (2.00–2.00), target 1.3 met |"
    assert line in table([fp16])
    assert "target 1.3 missed" in table([fp16 | {"times_torch": 1.29}])


def test_failed_case_leaves_the_others() -> None:
    class Half(RuntimeBase):
        name = "half"

        def run(self, inputs: Any) -> Any:
            if inputs["input_ids"].shape[0] > 1:
                raise AdaptrtError("out of memory\nmore")
            return {}

    found = measure(Half(), ["1x128", "8x512"], budget=0.0)
    assert found["1x128"]["runs"] >= 10
    assert found["8x512"] == {"error": "out of memory"}


@pytest.fixture
def steps_of_check(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What ``make gpu-check`` would run, while nothing runs; ``torch`` leaves its vectors."""
    ran: list[list[str]] = []

    def note(name: str, arguments: Any, timeout: float) -> Outcome:
        ran.append([name, *map(str, arguments)])
        return Outcome(name, DONE)

    for module in (tests.gpu.check, tests.bench.gpu):
        monkeypatch.setattr(module, "run_step", note)
    return ran


@pytest.mark.parametrize(("sm", "target"), [("sm89", "tensorrt_rtx"), ("sm90", "tensorrt")])
def test_first_on_a_gpu_is_an_int8_engine_on_ten_texts(
    sm: str,
    target: str,
    steps_of_check: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By full TensorRT where TensorRT-RTX does not build for the card."""
    monkeypatch.setattr(tests.gpu.check, "find_gpu", lambda: Gpu("Card", sm, "13.0", 139.0))
    monkeypatch.setattr(sys, "argv", ["check", "--out", str(tmp_path), "--sizes", "sample"])
    bundle = tmp_path / "bundles" / f"int8-first-{target}" / "sample" / NAME
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").touch()
    assert tests.gpu.check.main() == 0
    first, build, compare, *later = steps_of_check
    assert first[0] == "libraries"
    assert build[3:] == ["build", target, sm, str(bundle.parents[1])]
    assert compare[3:] == ["compare", str(bundle), target]
    assert len(later) > 10
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    named = {step["name"]: step for step in report["steps"]}
    assert named[compare[0]]["result"]["gate"] == GATES["int8"]
    if sm == "sm90":
        reason = "it takes sm75, sm80, sm86, sm89, sm120, sm121, not sm90; full TensorRT is tried"
        assert named["TensorRT-RTX"]["status"] == NOT_RUN
        assert named["TensorRT-RTX"]["reason"].startswith(reason)
        assert not [step for step in steps_of_check if "tensorrt_rtx" in " ".join(step)]
        assert "build sample for tensorrt fp16" in named


def test_list_of_cards_is_tensorrt_rtxs_own() -> None:
    known = {name.lower() for name in dir(rtx.ComputeCapability) if name.startswith("SM")}
    assert set(RTX_GPUS) == known


def test_contenders_run_what_they_are_given() -> None:
    """ONNX Runtime on a GPU refuses INT8."""
    ours = [c for c in contenders(CARD, PRECISIONS) if c.executor not in OF_TORCH]
    assert all(Precision(c.precision) in EXECUTORS[c.executor].precisions for c in ours)
    assert {c.executor for c in ours} == {"onnxruntime_cuda", "tensorrt", "tensorrt_rtx"}


def test_flash_attention_2_is_asked_for_by_name() -> None:
    """Of PyTorch and of the package; the gate's reference is FP32 and neither."""
    names = [str(c) for c in contenders(CARD, PRECISIONS)]
    assert names[:4] == ["torch fp16", "torch bf16", "flash_attn fp16", "flash_attn bf16"]
    assert Contender("flash_attn", "bf16").baseline == Contender("torch", "bf16")


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="it is installed")
def test_worker_without_the_package_says_what_to_install(small_folder: Path) -> None:
    module = ["-m", "tests.bench.gpu_worker", "flash_attn", small_folder]
    step = run_step("flash_attn", module, 120)
    assert step.status == NOT_RUN
    assert step.reason == "flash-attn is not installed; pip install 'adaptrt[flash]'"


def test_first_engine_is_built_whatever_gate_and_rules_would_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there to be compared; the gate would run it on the GPU and refuse a wrong one."""
    monkeypatch.setattr(export.build.judging, "device_sm", lambda: "sm89")
    asked: list[Any] = []

    def engine(arguments: list[str]) -> int:
        assert vars(export.build.judging)["device_sm"]() is None
        asked.append(cli._parser().parse_args(arguments))
        return 0

    monkeypatch.setattr(tests.gpu.int8_first, "adaptrt", engine)
    assert tests.gpu.int8_first.main(["build", "tensorrt", "sm90", str(tmp_path)]) == 0
    assert set(asked[0].allow_plan.split(",")) == set(PlanRule)
    assert (asked[0].target, asked[0].precision) == ("tensorrt", "int8")
    assert vars(export.build.judging)["device_sm"]() == "sm89"


class Overflowing(RuntimeBase):
    """Vectors as sums beyond FP16 leave them: no numbers in every second row."""

    name = "overflowing"

    def __init__(self, graph: Runtime) -> None:
        self._graph = graph

    def run(self, inputs: Any) -> Any:
        outputs = self._graph.run(inputs)
        for rows in outputs.values():
            rows[::2] = np.nan
        return outputs


def test_ten_texts_tell_an_engine_that_overflows(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step's comparison, with executors of the CPU in the engine's place."""
    right = compare_texts(small_bundle, "portable")
    assert (right["texts"], right["not_finite"]) == (10, 0)
    assert right["executed"] == "onnxruntime-cpu"
    assert right["min_cosine"] > 0.999999
    graph = EXECUTORS["portable"]

    def open_engine(*arguments: Any) -> Overflowing:
        return Overflowing(graph.opener(*arguments))

    monkeypatch.setitem(EXECUTORS, "portable", replace(graph, opener=open_engine))
    wrong = compare_texts(small_bundle, "portable")
    assert wrong["not_finite"] >= 5
    assert wrong["min_cosine"] == 0
    gated = Outcome("int8", DONE, result={**wrong, "gate": GATES["int8"]})
    assert verdict([gated]) == 3


def test_gpu_list_decides_about_tensorrt_rtx() -> None:
    names = {str(c) for c in contenders(CARD, ["fp16", "int8"])}
    assert {"torch fp16", "tensorrt_rtx fp16", "tensorrt int8", "onnxruntime_cuda fp16"} <= names
    assert "torch int8" not in names
    hopper = contenders(Gpu("H200", "sm90", "13.0", 139.0), ["fp16"])
    assert all(c.executor != "tensorrt_rtx" for c in hopper)


def test_bundles_of_refitted_and_other_targets_lie_apart(tmp_path: Path) -> None:
    place = Workplace(tmp_path, "sample", CARD)
    kinds = [
        Contender("tensorrt", "fp16"),
        Contender("tensorrt", "fp16", refit=True),
        Contender("onnxruntime_cuda", "fp16"),
        Contender("tensorrt", "bf16"),
    ]
    assert len({place.bundle(kind) for kind in kinds}) == 4
    assert place.bundle(kinds[0]).name == "base-fp16"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([Outcome("a", DONE), Outcome("b", NOT_RUN)], 0),
        ([Outcome("a", DONE), Outcome("b", FAILED)], 1),
        ([Outcome("a", DONE, result={"min_cosine": 0.9998, "gate": GATES["fp16"]})], 3),
        ([Outcome("a", DONE, result={"min_cosine": 0.99995, "gate": GATES["fp16"]})], 0),
    ],
)
def test_verdict(steps: list[Outcome], code: int) -> None:
    assert verdict(steps) == code


def test_summary_names_the_card_and_the_reasons() -> None:
    text = summary(CARD, [Outcome("build", NOT_RUN, reason="no | library")], [])
    assert text.startswith("# Test card\n\nsm89, 24 GiB, driver for CUDA 13.0")
    assert "| build | not run: no / library | 0 |" in text


def compare(folder: Path, **arrays: Any) -> dict[str, Any]:
    reference: dict[str, Any] = {"a": np.eye(3, dtype=np.float32), "b": np.ones((1, 4), np.float32)}
    np.savez(folder / "reference.npz", **reference)
    np.savez(folder / "ours.npz", **reference | arrays)
    step = run_step(
        "compare", ["-m", "tests.gpu.compare", folder / "reference.npz", folder / "ours.npz"], 60
    )
    assert step.status == DONE
    return step.result


def test_comparison_finds_the_worst_row(tmp_path: Path) -> None:
    assert compare(tmp_path)["min_cosine"] == pytest.approx(1.0)
    assert compare(tmp_path, a=np.roll(np.eye(3), 1, 0))["cosines"]["a"] == pytest.approx(0.0)
    assert compare(tmp_path, b=np.full((1, 4), np.nan))["min_cosine"] == 0.0


def test_worker_gives_equal_vectors_from_torch_and_a_bundle(
    small_folder: Path, out: Path, tmp_path: Path
) -> None:
    """The same worker that a GPU runs, on the CPU: every length and the padded batch agree."""
    from tests.support import build

    assert build(out, "--model", small_folder, "--task", "base") == 0
    bundle = out / "small" / "base-fp32-onnxruntime"
    for executor, folder in (("torch", small_folder), ("onnxruntime", bundle)):
        step = run_step(
            executor,
            [
                "-m",
                "tests.bench.gpu_worker",
                executor,
                folder,
                "--precision",
                "fp32",
                "--device",
                "cpu",
                "--longest",
                1024,
                "--vectors",
                tmp_path / f"{executor}.npz",
            ],
            120,
        )
        assert step.status == DONE, step.reason
    step = run_step(
        "compare",
        ["-m", "tests.gpu.compare", tmp_path / "torch.npz", tmp_path / "onnxruntime.npz"],
        60,
    )
    assert set(step.result["cosines"]) == set(compared(1024))
    assert step.result["min_cosine"] > 0.99999


def test_padded_batch_has_the_lengths_it_says() -> None:
    assert padded()["attention_mask"].sum(1).tolist() == list(PADDED)


def test_wheels_are_found_before_the_images_packages(tmp_path: Path) -> None:
    """A wheel made here holds a package that no index has."""
    import zipfile

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "adaptrt_example-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("adaptrt_example.py", "VALUE = 7\n")
        folder = "adaptrt_example-1.0.dist-info"
        wheel.writestr(
            f"{folder}/METADATA", "Metadata-Version: 2.1\nName: adaptrt-example\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{folder}/RECORD", "")
    code = (
        f"from pathlib import Path; from tests.gpu.check import install_wheels; "
        f"from tests.gpu.steps import run_step; "
        f"step = install_wheels(Path({str(wheels)!r}), Path({str(tmp_path / 'site')!r})); "
        f"assert step.status == 'done', step.reason; "
        f"print(run_step('use', ['-c', 'import adaptrt_example as a, json; "
        f'print(json.dumps({{"value": a.VALUE}}))\'], 30).result)'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=120,
    )
    assert json.loads(done.stdout.replace("'", '"')) == {"value": 7}, done.stderr


def test_folder_without_wheels_is_a_failed_step(tmp_path: Path) -> None:
    from tests.gpu.check import install_wheels

    assert install_wheels(tmp_path, tmp_path / "site").status == FAILED
