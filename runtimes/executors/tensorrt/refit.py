"""Weights for an engine that was built without them, read from an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.errors import AdaptrtError, InputError


def refit(trt: Any, engine: Any, graph: Path, logger: Any) -> None:
    """Fill ``engine`` with the weights of ``graph`` (its external data beside it), by name.

    Contexts made before stay valid. Raises :class:`InputError` for an engine that was not built
    refittable and :class:`AdaptrtError` where weights are missing or do not fit.
    """
    if not engine.refittable:
        raise InputError(f"{graph.name}: the engine cannot be refitted; build with --refittable")
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(graph)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        words = "; ".join(f"node {e.node_name()}: {e.desc()}" for e in errors)
        raise AdaptrtError(
            f"{graph.name}: the graph's weights do not fit the engine: "
            f"{words or logger.last_words()}"
        )
    if missing := refitter.get_missing_weights():
        raise AdaptrtError(
            f"{graph.name}: {len(missing)} weights of the engine are not in the graph, "
            f"for example {missing[0]}"
        )
    if not refitter.refit_cuda_engine():
        raise AdaptrtError(f"{graph.name}: TensorRT refused the weights: {logger.last_words()}")
