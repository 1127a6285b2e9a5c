#!/usr/bin/env python3
"""Embed texts with this bundle on the device, by the light runtime that lies beside this file.

python3 encode.py "Where is the station?" "Wo ist der Bahnhof?"
python3 encode.py --sentences 2 "A long document. It has many sentences."   (HEAD=chunks)
python3 encode.py < texts.txt   (a text per line)

Prints one JSON object per vector. Before the first time: pip3 install -r requirements.txt, and
python3 build_engine.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WHEELS = sorted(HERE.glob("adaptrt_runtime-*.whl"))
# In the place of this folder, whose onnx/ and openvino/ could pass for packages.
sys.path[0:1] = [str(wheel) for wheel in WHEELS]


def options(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, named as those of ``adaptrt encode``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("text", nargs="*", help="a text, or a document with --sentences or --chunk-tokens")
    add(
        "--runtime",
        "--executor",
        default="tensorrt",
        metavar="NAME",
        help="tensorrt: the engine of build_engine.py; onnxruntime: the CPU (pip3 install "
        "onnxruntime) (default: tensorrt)",
    )
    add("--task", metavar="NAME", help="what the texts are for; needed of a switchable bundle")
    add("--dimensions", type=int, metavar="N", help="cut the vectors to this length")
    add("--output-type", default="float32", metavar="NAME", help="float32, int8, uint8, binary, …")
    add("--sentences", type=int, metavar="N", help="late chunking: sentences per chunk")
    add("--chunk-tokens", type=int, metavar="N", help="late chunking: tokens per chunk")
    add("--no-prefix", dest="prefix", action="store_false", help="without the task's instruction")
    add("--strict", action="store_true", help="refuse texts that are too long (else cut, warned)")
    return parser.parse_args(arguments)


def embed(chosen: argparse.Namespace, texts: list[str]) -> Iterator[dict[str, Any]]:
    """What is printed, a vector each."""
    from runtimes import Embedder

    common = {
        "task": chosen.task,
        "dimensions": chosen.dimensions,
        "output": chosen.output_type,
        "prefix": chosen.prefix,
    }
    with Embedder.load(HERE, runtime=chosen.runtime) as embedder:
        if chosen.sentences is None and chosen.chunk_tokens is None:
            vectors = embedder.encode(texts, strict=chosen.strict, **common)
            for text, vector in zip(texts, vectors, strict=True):
                yield {"text": text, "embedding": vector.tolist()}
            return
        cut = {"sentences": chosen.sentences, "chunk_tokens": chosen.chunk_tokens}
        for text in texts:
            found = embedder.encode_chunks(text, **cut, **common)
            for (start, end), vector in zip(found.spans, found.vectors, strict=True):
                yield {"text": text[start:end], "start": start, "embedding": vector.tolist()}


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or that of an error, which is one line on standard error."""
    chosen = options(arguments)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        from runtimes.errors import AdaptrtError, InputError
        from runtimes.text.lines import read_lines
    except ImportError as missing:
        return complain(f"{missing}; pip3 install -r {HERE / 'requirements.txt'}", 4)
    try:
        texts = chosen.text or [text for _, text in read_lines(sys.stdin.buffer, "standard input")]
        if chosen.strict and (chosen.sentences or chosen.chunk_tokens):
            raise InputError("--strict: late chunking takes documents of any length; leave it out")
        for line in embed(chosen, texts):
            sys.stdout.buffer.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        sys.stdout.flush()
    except ImportError as missing:
        return complain(f"{missing}; pip3 install -r {HERE / 'requirements.txt'}", 4)
    except AdaptrtError as error:
        return complain(str(error), error.exit_code)
    except OSError as error:  # a reader that went away, a file that cannot be read
        return complain(str(error), 1)
    return 0


def complain(message: str, code: int) -> int:
    """One line, and the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
