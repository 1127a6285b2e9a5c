"""Reads the compiled plan out of full TensorRT's engine inspector.

Never seen from a GPU: the shape of the JSON is NVIDIA's documentation's (TensorRT 10 and 11), its
layers' keys those that TensorRT-RTX 1.7.1 prints. TensorRT 10 says a type in "Format/Datatype",
11 in "Datatype".
"""

from __future__ import annotations

from typing import Any

import msgspec

from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.plan_log import EngineFacts, nodes_of, plans_of


class _Tensor(msgspec.Struct, rename="pascal"):
    name: str
    dimensions: tuple[int, ...] = ()
    datatype: str | None = None
    old_datatype: str | None = msgspec.field(name="Format/Datatype", default=None)

    def plain(self) -> PlanTensor:
        """As the plan's records have it. Raises :class:`ValueError` where no type is told."""
        if (kind := self.datatype or self.old_datatype) is None:
            raise ValueError(f"tensor {self.name}: no type is told")
        return PlanTensor(name=self.name, shape=self.dimensions, type=kind)


class _Layer(msgspec.Struct, rename="pascal"):
    name: str
    layer_type: str
    inputs: tuple[_Tensor, ...] = ()
    constants: tuple[_Tensor, ...] = ()
    outputs: tuple[_Tensor, ...] = ()
    tactic_name: str = ""
    stream_id: int = 0
    metadata: str = ""


class _Information(msgspec.Struct, rename="pascal"):
    layers: tuple[_Layer, ...]


def inspected(trt: Any, logger: Any, engine: memoryview) -> str:
    """What the inspector says of a serialised engine, which it loads: this needs the GPU.

    Raises :class:`ValueError` where the engine cannot be loaded.
    """
    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine)
    if loaded is None:
        raise ValueError(f"the engine cannot be loaded ({logger.last_words()})")
    inspector = loaded.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def read_information(
    text: str, engine: bytes | memoryview, *, builder: str, gpu: str | None, profiles: int = 1
) -> tuple[Plan, ...]:
    """The plan of each profile from the inspector's JSON (``get_engine_information``).

    Raises :class:`ValueError` where it cannot be read, or tells names alone.
    """
    try:
        information = msgspec.json.decode(text, type=_Information)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the inspector's JSON cannot be read: {error}") from error
    facts = EngineFacts.of(engine)
    kernels = [_kernel(layer, facts) for layer in information.layers]
    return plans_of(kernels, builder=builder, gpu=gpu, profiles=profiles)


def _kernel(layer: _Layer, facts: EngineFacts) -> Kernel:
    return Kernel(
        name=layer.name,
        kind=KernelKind.of(layer.layer_type),
        inputs=tuple(tensor.plain() for tensor in layer.inputs),
        constants=tuple(tensor.plain() for tensor in layer.constants),
        outputs=tuple(tensor.plain() for tensor in layer.outputs),
        tactic=layer.tactic_name,
        stream=layer.stream_id,
        nodes=nodes_of(layer.metadata),
        alpha=facts.alpha(layer.name),
        accumulator=facts.accumulators.get(layer.tactic_name),
    )
