"""Use adapters of your own with one bundle, without building it again.

make engine ADAPTER=slot RANK=16 TASK=base TARGET=onnxruntime
adaptrt adapter --peft /path/to/adapter --bundle build/sample/base-slot-fp16 --out mine.onnx_adapter
python examples/own_adapter.py build/sample/base-slot-fp16 mine.onnx_adapter
"""

from __future__ import annotations

import sys

from adaptrt import Embedder

TEXT = "Where is the station?"


def main(bundle: str, adapter: str) -> None:
    """The same text without and with the adapter."""
    with Embedder.load(bundle) as base, Embedder.load(bundle, adapter=adapter) as adapted:
        (before,), (after,) = base.encode([TEXT]), adapted.encode([TEXT])
    print(f"cosine of the vectors without and with the adapter: {before @ after:.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
