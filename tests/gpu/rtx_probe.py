"""What TensorRT-RTX says on this card to engines built ahead of time; prints one JSON object.

``python -m tests.gpu.rtx_probe BUNDLE``: every engine of the bundle is validated and loaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runtimes.choices import Target
from runtimes.errors import AdaptrtError
from runtimes.executors.tensorrt.library import load_tensorrt, make_logger
from runtimes.manifest import read_manifest


def main() -> int:
    bundle = Path(sys.argv[1])
    try:
        trt = load_tensorrt(Target.TENSORRT_RTX)
        engines = read_manifest(bundle).engines(Target.TENSORRT_RTX)
    except AdaptrtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    said = {}
    for engine in engines:
        logger = make_logger(trt)
        runtime = trt.Runtime(logger)
        data = (bundle / engine.path).read_bytes()
        validity, bits = runtime.get_engine_validity(data)
        flags = trt.EngineInvalidityDiagnostics.__members__.items()
        loaded = runtime.deserialize_cuda_engine(data)
        said[engine.gpu] = {
            "validity": str(validity),
            "diagnosis": [n for n, flag in flags if bits & int(flag)],
            "loads": loaded is not None,
            "errors": logger.errors,
        }
    print(json.dumps({"version": trt.__version__, "engines": said}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
