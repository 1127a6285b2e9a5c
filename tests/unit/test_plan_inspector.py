"""The plan out of full TensorRT's inspector: JSON written after NVIDIA's documents, no GPU's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from export.engines.plan import Kernel, KernelKind, PlanTensor
from export.engines.plan_inspector import read_information
from tests.support import changed

FC2 = "encoder.layers.0.mlp.fc2.MatMul"
ENGINE = f'fully_connected={{ name="{FC2}" beta=0 alpha=3F000000 }}'.encode()


def tensor(name: str, kind: str, *shape: int) -> dict[str, Any]:
    """As TensorRT 11 tells it."""
    return {
        "Name": name,
        "Location": "Device",
        "Dimensions": list(shape),
        "Datatype": kind,
        "Format": "Row major linear format",
    }


INFORMATION: dict[str, Any] = {
    "Layers": [
        {
            "Name": f"{FC2}_myl0_23",
            "LayerType": "gemm",
            "Inputs": [tensor("x", "Half", -1, 1024)],
            "Constants": [tensor("w", "Half", 1024, 256)],
            "Outputs": [tensor("y", "Half", -1, 256)],
            "TacticName": "sm90_xmma_gemm_f16f16",
            "StreamId": 1,
            "Metadata": f"[ONNX Layer: {FC2}]\x1e[ONNX Layer: encoder.layers.0.mlp.fc2.Add]",
        },
        {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "TacticValue": "0x0"},
    ],
    "I/O Tensors": [{"Name": "input_ids", "IOMode": "Input", "DataType": "Int64"}],
}
FIRST = ("Layers", 0, "Inputs", 0)


def read(information: dict[str, Any], profiles: int = 1) -> tuple[Kernel, ...]:
    (plan,) = read_information(
        json.dumps(information), ENGINE, builder="tensorrt 11.4", gpu=None, profiles=profiles
    )
    return plan.kernels


def test_layer_becomes_a_kernel() -> None:
    product, copy = read(INFORMATION)
    assert product == Kernel(
        name=f"{FC2}_myl0_23",
        kind=KernelKind.GEMM,
        inputs=(PlanTensor(name="x", shape=(-1, 1024), type="Half"),),
        constants=(PlanTensor(name="w", shape=(1024, 256), type="Half"),),
        outputs=(PlanTensor(name="y", shape=(-1, 256), type="Half"),),
        tactic="sm90_xmma_gemm_f16f16",
        stream=1,
        nodes=(FC2, "encoder.layers.0.mlp.fc2.Add"),
        alpha=0.5,
        layer=0,
    )
    assert (copy.kind, copy.launched) == (KernelKind.OTHER, True)


def test_types_of_tensorrt_10_are_read() -> None:
    older = {"Name": "x", "Dimensions": [-1, 1024], "Format/Datatype": "Half"}
    assert read(changed(INFORMATION, FIRST, older)) == read(INFORMATION)


@pytest.mark.parametrize(
    ("information", "profiles", "message"),
    [
        ({"Layers": ["fc1", "fc2"]}, 1, "Expected `object`, got `str`"),
        ({"Layers": []}, 1, "no kernel of a compiled plan"),
        ({"Bindings": []}, 1, "missing required field `Layers`"),
        (changed(INFORMATION, (*FIRST, "Datatype"), ...), 1, "tensor x: no type is told"),
        (INFORMATION, 3, "2 compiled graphs for 3 profiles"),
    ],
    ids=["names_alone", "empty", "no_layers", "no_type", "profiles"],
)
def test_information_of_another_form_is_refused(
    information: dict[str, Any], profiles: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(information, profiles)
