"""Bytes and operations of plans that TensorRT-RTX compiled, against closed forms."""

from __future__ import annotations

from collections import defaultdict

import pytest
import tensorrt_rtx_bindings as trt

from export.checkpoint.reader import Checkpoint
from export.engines.builder import EngineSpec, build_engine
from export.engines.gpus import GPUS
from export.engines.plan import Plan
from export.engines.plan_sizes import Sizes
from export.engines.predict import predict
from export.engines.traffic import Workload, traffic
from export.spec import Limits
from runtimes.choices import GraphKind
from tests.support import graph_path, write_graphs

DTYPES = {"float16": "Half", "bfloat16": "BFloat16", "float32": "Float"}
SIZES = [(1, 1), (1, 16), (3, 7)]


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plan(small: Checkpoint, dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = write_graphs(tmp_path_factory.mktemp(dtype), small, "separation", dtype, 64)
    spec = EngineSpec(limits=Limits(max_batch=4, max_tokens=64), gpu="sm89", workspace=1 << 30)
    built = build_engine(trt, graph_path(folder, GraphKind.TENSORRT), folder / "engine", spec)
    return built.plans[0]


@pytest.mark.parametrize(("batch", "tokens"), SIZES)
def test_operations_are_the_closed_forms(
    plan: Plan, dtype: str, small: Checkpoint, batch: int, tokens: int
) -> None:
    c = small.config
    works = traffic(plan, Workload(batch=batch, tokens=tokens, heads=c.heads))
    weights = c.layers * c.hidden * (4 * c.hidden + 2 * c.intermediate)
    products = sum(w.flops for w in works if w.kernel.weight is not None)
    # Fused, or two products of activations in FP32.
    attention = sum(w.flops for w in works if w.flops and w.kernel.weight is None)
    assert products == 2 * batch * tokens * weights
    assert attention == 4 * batch * tokens**2 * c.hidden * c.layers
    assert {w.operands for w in works if w.flops} == {(DTYPES[dtype], DTYPES[dtype])}


@pytest.mark.parametrize(("batch", "tokens"), SIZES)
def test_no_kernel_reads_more_of_a_tensor_than_was_written(
    plan: Plan, small: Checkpoint, batch: int, tokens: int
) -> None:
    """What tells a wrong meaning of a run-time dimension: views of one name must go together."""
    sizes = Sizes.of(plan, Workload(batch=batch, tokens=tokens, heads=small.config.heads))
    written: dict[str, float] = defaultdict(float)
    for kernel in plan.launches:
        for tensor in kernel.outputs:
            written[tensor.name] += sizes.bytes(tensor)
    views = [t for kernel in plan.launches for t in kernel.inputs if t.name in written]
    assert len(views) > 20
    assert [t for t in views if sizes.bytes(t) > written[t.name]] == []


def test_prediction_grows_with_the_texts(plan: Plan, small: Checkpoint) -> None:
    times = [
        predict(plan, Workload(batch=b, tokens=t, heads=small.config.heads), GPUS["L4"])
        for b, t in ((1, 16), (32, 512), (32, 8192))
    ]
    shown = [time.milliseconds for time in times]
    assert shown == sorted(shown)
    assert shown[-1] > 5 * shown[0]
