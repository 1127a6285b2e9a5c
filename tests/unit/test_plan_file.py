"""``plan.json``: what is written is read again, and what is damaged is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.plan_file import read_plans, write_plans
from runtimes.errors import InputError
from tests.support import changed

KERNEL = Kernel(
    name="_gemm_mha_v2_myl0_18",
    kind=KernelKind.GENERATED,
    inputs=(PlanTensor(name="q", shape=(-1, -1, 32), type="Half"),),
    outputs=(PlanTensor(name="y", shape=(-1, -1, 32), type="Half"),),
    tactic="_gemm_mha_v2_0x5",
    stream=1,
    nodes=("Attention.0",),
    accumulator="Float",
    layer=0,
)
PLANS = {
    "encoder.sm89.engine": (
        Plan(builder="tensorrt_rtx 1.7.1", gpu="sm89", kernels=(KERNEL,)),
        Plan(builder="tensorrt_rtx 1.7.1", gpu="sm89", kernels=()),
    )
}
PLAN = ("engines", 0, "profiles", 0)


def written(folder: Path) -> Path:
    write_plans(folder, PLANS)
    return folder / "plan.json"


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_plans(written(tmp_path)) == PLANS


def test_defaults_are_not_written(tmp_path: Path) -> None:
    kernel = json.loads(written(tmp_path).read_text())["engines"][0]["profiles"][0]["kernels"][0]
    assert "alpha" not in kernel
    assert kernel["layer"] == 0


def test_engines_without_a_plan_leave_no_file(tmp_path: Path) -> None:
    write_plans(tmp_path, {"encoder.sm90.engine": ()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (("schema",), 2, "schema: got 2, expected `int` <= 1"),
        (("engines",), ..., "engines: missing"),
        (
            ("engines", 0, "profiles"),
            [],
            "profiles: got [], expected `array` of length >= 1",
        ),
        ((*PLAN, "kernels", 0, "kind"), "fft", "got 'fft', expected one of gemm, "),
        ((*PLAN, "kernels", 0, "inputs", 0, "shape"), ["a"], "got 'a', expected `int`"),
        ((*PLAN, "kernels", 0, "name"), "\x1b[2J", "name: got "),
    ],
    ids=["schema", "engines", "no_plan", "kind", "shape", "control_characters"],
)
def test_damaged_file_is_one_line(
    tmp_path: Path, at: tuple[Any, ...], value: object, message: str
) -> None:
    path = written(tmp_path)
    path.write_text(json.dumps(changed(json.loads(path.read_text()), at, value)))
    with pytest.raises(InputError, match=r"plan\.json: ") as refused:
        read_plans(path)
    assert message.replace("`", "") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
