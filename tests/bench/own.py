"""Contenders that are bundles of ours, and how each bundle is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.rivals import Encode


@dataclass(frozen=True)
class Bundle:
    """A bundle: its folder's name, how it is built, what runs it, the task it is asked for."""

    name: str
    options: tuple[str, ...]
    runtime: str = "onnxruntime"
    task: str | None = None


def _merged(precision: str, target: str) -> Bundle:
    options = ("--precision", precision, "--task", "base", "--target", target)
    return Bundle(f"base-{precision}-{target}", options, runtime=target)


BUNDLES = {
    "adaptrt": _merged("fp32", "onnxruntime"),
    "adaptrt INT8": _merged("int8", "onnxruntime"),
    "adaptrt OpenVINO FP32": _merged("fp32", "openvino"),
    "adaptrt OpenVINO BF16": _merged("bf16", "openvino"),
    "adaptrt OpenVINO INT8": _merged("int8", "openvino"),
    "adaptrt switchable": Bundle(
        "switchable-fp32-onnxruntime",
        ("--precision", "fp32", "--adapter", "switchable", "--target", "onnxruntime"),
        task="classification",
    ),
}


def bundle_folder(work: Path, contender: str) -> Path:
    return work / "bundles" / "model" / BUNDLES[contender].name


def ours(contender: str) -> Callable[[Path], Encode]:
    """The bundle behind a contender's name, through ``Embedder``."""

    def load(work: Path) -> Encode:
        from adaptrt import Embedder

        bundle = BUNDLES[contender]
        embedder = Embedder.load(bundle_folder(work, contender), runtime=bundle.runtime)
        return lambda texts: embedder.encode(texts, task=bundle.task, prefix=False)

    return load
