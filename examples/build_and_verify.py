"""Build a bundle of a checkpoint for CPUs, then check it again.

python examples/build_and_verify.py                      # the sample that comes with adaptrt
python examples/build_and_verify.py /path/to/checkpoint bundles
"""

from __future__ import annotations

import sys

from adaptrt import build, verify


def main(model: str | None = None, out: str = "build") -> None:
    """Build into ``out``, then verify."""
    (bundle,) = build(model, task="classification", precision="fp32", target="onnxruntime", out=out)
    print(bundle.path)
    print(*verify(bundle.path).lines(), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
