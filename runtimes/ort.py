"""ONNX Runtime on a CPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from runtimes.base import Arrays, RuntimeBase
from runtimes.errors import AdaptrtError, InputError


class OrtRuntime(RuntimeBase):
    """A graph in ONNX Runtime's CPU provider, and no other: nothing moves between devices."""

    def __init__(self, graph: Path, *, threads: int | None = None) -> None:
        if not graph.is_file():
            raise InputError(f"{graph}: no such file")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Shapes differ from call to call, so a memory plan per shape would only pile up.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(
                graph, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except _ORT_ERRORS as error:
            raise AdaptrtError(f"{graph}: ONNX Runtime cannot load it: {error}") from error
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    @property
    def name(self) -> str:
        """What manifests record."""
        return "onnxruntime-cpu"

    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; every output of the graph by name."""
        try:
            values = self._session.run(None, dict(inputs))
        except _ORT_ERRORS as error:
            shapes = {name: list(array.shape) for name, array in inputs.items()}
            raise AdaptrtError(f"ONNX Runtime failed on shapes {shapes}: {error}") from error
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Free the session's memory."""
        del self._session


_STATE = ort.capi.onnxruntime_pybind11_state
_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        getattr(_STATE, name)
        for name in (
            "Fail",
            "InvalidArgument",
            "InvalidGraph",
            "InvalidProtobuf",
            "NoSuchFile",
            "NotImplemented",
            "RuntimeException",
        )
    ),
)
