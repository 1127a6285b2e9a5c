"""OpenVINO on a CPU. Imports no torch.

What OpenVINO would decide by itself is said here: on CPUs with BF16 it multiplies in BF16 unless
INFERENCE_PRECISION_HINT says FP32, and quantises activations of its own accord where weights are
compressed.
"""

from __future__ import annotations

import mmap
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.arrays import Arrays
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.executors.vnni import has_vnni
from runtimes.tasks import check_task_ids
from runtimes.tensors import ATTENTION_MASK, SEQUENCE, Tensor
from runtimes.text.batching import Budget

try:
    import openvino as ov

    _ = ov.Core  # a bundle's folder of that name passes for a package, where Python starts in it
except (ModuleNotFoundError, AttributeError) as error:  # an install without it
    raise MissingError(
        "OpenVINO is not installed; pip install 'adaptrt[openvino]', or for a Triton server "
        "pip install -r the repository's requirements.txt"
    ) from error

# What makes numbers of a weight that is stored quantised.
_RESTORING = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose")
# Lengths are padded to a multiple of this: 33 tokens take as long as 48 in INT8 (Zen 4), where 48
# are three whole tiles, and a corpus has fewer shapes, each of which costs a compilation.
MULTIPLE = 16
# Measured like that of ONNX Runtime, docs/decisions, "OpenVINO on a CPU".
BUDGET = Budget(tokens=1024, call_tokens=32)


class OpenVinoRuntime(RuntimeBase):
    """A graph in OpenVINO on the CPU, in the type of products that was asked for and no other."""

    budget = BUDGET

    def __init__(
        self,
        graph: Path,
        *,
        products: str,
        inputs: Sequence[Tensor],
        output: str,
        max_tokens: int,
        integer_products: bool = False,
        threads: int | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        """``products`` is INFERENCE_PRECISION_HINT: ``f32`` or ``bf16``.

        ``inputs`` are the graph's, ``output`` is the one that is wanted, ``tasks`` are the names
        that ``task_id`` counts. Memory is about one copy of the weights in the type that they are
        multiplied in: those in the file are only mapped, and let go once they are packed.
        Raises :class:`MissingError` where the CPU has no BF16 or, for ``integer_products``, no
        VNNI: OpenVINO would multiply in FP32 in silence, or saturate.
        """
        self._belongs_here()
        self.name = f"openvino-cpu-{products}"
        self._inputs, self._tasks, self._max_tokens = tuple(inputs), tuple(tasks), max_tokens
        self._lock = threading.Lock()  # one request; two would share the same threads
        require_types(products, integer_products=integer_products)
        core = ov.Core()
        self._mapped = _map(graph.with_suffix(".bin"))
        try:
            model = core.read_model(
                graph.read_bytes(),
                ov.Tensor(np.frombuffer(self._mapped, np.uint8), shared_memory=True),
            )
            for result in model.get_results():
                if output not in result.input_value(0).get_names():
                    model.remove_result(result)
            quantised = _quantised_weights(model)
            compiled = core.compile_model(model, "CPU", _settings(products, threads))
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            raise AdaptrtError(f"{graph}: OpenVINO cannot load it: {_reason(error)}") from error
        if (used := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != products:
            raise MissingError(f"OpenVINO multiplies in {used} here, expected {products}")
        self.outputs = (output,)
        del model
        self._release()
        self.products = _products(compiled)
        _require_products(self.products, products, quantised)

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; the outputs by name."""
        check_task_ids(inputs, self._tasks)
        padded = self._padded(inputs)
        try:
            with self._lock:
                values = self._request.infer(padded)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            shapes = {name: list(array.shape) for name, array in inputs.items()}
            raise AdaptrtError(f"OpenVINO failed on shapes {shapes}: {_reason(error)}") from error
        return {name: values[name] for name in self.outputs}

    def _padded(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The inputs with their token axis filled with zeros, the mask's too."""
        padded: dict[str, NDArray[Any]] = dict(inputs)
        for tensor in self._inputs:
            if SEQUENCE in tensor.axes and (array := inputs.get(tensor.name)) is not None:
                axis = tensor.axes.index(SEQUENCE)
                length = array.shape[axis]
                wanted = min(-(-length // MULTIPLE) * MULTIPLE, self._max_tokens)
                widths = [(0, 0)] * array.ndim
                widths[axis] = (0, max(wanted - length, 0))
                padded[tensor.name] = np.pad(array, widths)
        return padded

    def _release(self) -> None:
        """Have the weights packed, as the first call does, and give back their mapped pages.

        What is still needed of them, rows of the embedding table, is mapped again when it is read.
        """
        one = {t.name: np.zeros([1] * len(t.axes), t.dtype) for t in self._inputs}
        one[ATTENTION_MASK.name][:] = 1
        self.run(one)
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux and macOS
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _free(self) -> None:
        del self._request
        self._mapped = mmap.mmap(-1, 1)  # the last reference is the compiled model's


def _settings(products: str, threads: int | None) -> Mapping[str, str]:
    settings = {
        "INFERENCE_PRECISION_HINT": products,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    return settings if threads is None else {**settings, "INFERENCE_NUM_THREADS": str(threads)}


def require_types(products: str, *, integer_products: bool) -> None:
    """Raise :class:`MissingError` where the CPU does not multiply the types that are needed."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if products == "bf16" and "BF16" not in capabilities:
        raise MissingError(
            "this CPU has no BF16 (AVX512_BF16 or AMX), and OpenVINO would multiply in FP32; use "
            "runtime='onnxruntime', or build with PRECISION=fp32, of INT8 with REST=fp32"
        )
    if integer_products and not has_vnni():
        raise MissingError(
            "this CPU has no VNNI, and OpenVINO's INT8 products would saturate; use "
            "runtime='onnxruntime', which is exact there, or build with PRECISION=fp32"
        )


def _quantised_weights(model: ov.Model) -> int:
    """How many products' weights are stored in INT8; a table of embeddings is none."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    stored = (c for c in constants if c.get_element_type() == ov.Type.i8 and len(c.shape) == 2)
    return sum(_user(constant) == "MatMul" for constant in stored)


def _user(constant: ov.Node) -> str:
    """What reads a stored weight, behind the operators that make numbers of it."""
    node = constant
    while node is constant or node.get_type_name() in _RESTORING:
        (reader, *_) = node.output(0).get_target_inputs()
        node = reader.get_node()
    return str(node.get_type_name())


def _products(compiled: ov.CompiledModel) -> Mapping[str, int]:
    """How many products with weights the compiled model has, by the type they are made in.

    That is the activations' type: what OpenVINO calls a node's runtime precision is the weights',
    INT8 also where they are dequantised first.
    """
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            kind = node.input(0).get_element_type().get_type_name()
            found["i8" if kind == "u8" else kind] += 1
    return found


def _require_products(found: Mapping[str, int], products: str, quantised: int) -> None:
    """Raise :class:`AdaptrtError` unless products are made in the types that the graph says."""
    others = {kind: n for kind, n in found.items() if kind not in ("i8", products)}
    if others or found.get("i8", 0) != quantised or not found:
        told = ", ".join(f"{n} in {kind}" for kind, n in sorted(found.items())) or "none"
        raise AdaptrtError(
            f"OpenVINO {ov.__version__} compiled products {told}; expected {quantised} in i8 and "
            f"the others in {products}; use the OpenVINO that the project names"
        )


def _map(path: Path) -> mmap.mmap:
    """The file as private memory: pages are read when needed, and nothing is written back."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


def _reason(error: Exception) -> str:
    """What OpenVINO says, without the lines of its source that it names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[-1]
