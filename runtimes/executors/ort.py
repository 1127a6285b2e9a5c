"""ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from runtimes.arrays import Arrays
from runtimes.choices import Device
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.executors.placement import RECORDED, require_placed
from runtimes.executors.vnni import has_vnni
from runtimes.tasks import check_task_ids
from runtimes.tensors import INPUT_IDS
from runtimes.text.batching import GPU, Budget
from runtimes.text.memory import trim

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:  # a light install without an executor
    raise MissingError(
        "ONNX Runtime is not installed; pip install 'adaptrt[cpu]', or 'adaptrt[gpu]' for NVIDIA "
        "GPUs"
    ) from error

_PROVIDERS = {Device.CPU: "CPUExecutionProvider", Device.CUDA: "CUDAExecutionProvider"}
# Without VNNI UINT8 × INT8 saturates. The CPU graph's weights then become UINT8, whose kernels are
# exact; Q/DQ of a portable graph are computed as they stand, not fused into integer kernels.
_EXACT_WEIGHTS, _NO_QDQ_FUSION = "session.x64quantprecision", "session.disable_quant_qdq"
_SHRINK = "memory.enable_memory_arena_shrinkage"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OrtRuntime(RuntimeBase):
    """A graph in ONNX Runtime on the device that was asked for, and on no other."""

    def __init__(
        self,
        graph: Path | bytes,
        *,
        device: Device = Device.CPU,
        ordinal: int = 0,
        threads: int | None = None,
        adapter: Path | None = None,
        tasks: Sequence[str] = (),
        spinning: bool = True,
        integer_products: bool = True,
        folder: Path | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        """``adapter`` fills a slot; ``tasks`` are the names that ``task_id`` counts.

        ``ordinal`` is the GPU's, where ``device`` is one.
        ``spinning`` threads go on spinning between calls and start the next one sooner; where
        other processes use the cores too, as in a server, they would take their time. Without
        ``integer_products`` Q/DQ are computed as they stand: ONNX Runtime 1.31 fuses those of
        other types than INT8 too, into integer kernels that do not take them. A graph may also be
        the bytes of a model whose weights lie in ``folder``. ``outputs`` are those that are
        wanted; None: all. Raises :class:`MissingError` where
        ``device`` is ``cuda`` and its provider does not load or leaves heavy nodes to the CPU.
        """
        self.name = f"onnxruntime-{device}"
        self.budget = Budget() if device is Device.CPU else GPU
        self._most_kept = _most_kept(device, self.budget)
        if isinstance(graph, Path) and not graph.is_file():
            raise InputError(f"{graph}: no such file")
        options = _session_options(threads, spinning=spinning, integer_products=integer_products)
        if device is not Device.CPU or threads != 1:
            self._belongs_here()  # else the thread that calls does all the work
        if device is not Device.CPU:
            options.add_session_config_entry(RECORDED, "1")
        if folder is not None:
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(folder))
        try:
            self._session = ort.InferenceSession(
                graph,
                sess_options=options,
                providers=[(_provider(device), _placed(device, ordinal))],
            )
        except _ORT_ERRORS as error:
            name = graph if isinstance(graph, Path) else folder
            raise AdaptrtError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        if self._session.get_providers()[0] != _PROVIDERS[device]:  # it would go on on the CPU
            raise MissingError(f"{_PROVIDERS[device]} did not start: {_CUDA_HINT}")
        if device is not Device.CPU:
            require_placed(self._session.get_provider_graph_assignment_info(), _PROVIDERS[device])
        self._tasks = tuple(tasks)
        # Shrinking gives back what the arena took, which else only grows: docs/decisions, "Memory
        # that a long text needed is given back".
        self._options, self._shrinking = ort.RunOptions(), ort.RunOptions()
        if device is Device.CPU:
            self._shrinking.add_run_config_entry(_SHRINK, "cpu:0")
        if adapter is not None:
            self._adapter = ort.LoraAdapter()  # must outlive every run
            self._adapter.Load(str(adapter))
            for run_options in (self._options, self._shrinking):
                run_options.add_active_adapter(self._adapter)
        given = tuple(o.name for o in self._session.get_outputs())
        self.outputs = given if outputs is None else tuple(outputs)

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; the outputs by name."""
        check_task_ids(inputs, self._tasks)
        ids = inputs.get(INPUT_IDS.name)
        long = ids is not None and ids.size > self._most_kept
        options = self._shrinking if long else self._options
        try:
            values = self._session.run(self.outputs, dict(inputs), options)
        except _ORT_ERRORS as error:
            shapes = {name: list(array.shape) for name, array in inputs.items()}
            raise AdaptrtError(f"ONNX Runtime failed on shapes {shapes}: {error}") from error
        if long:
            trim()  # glibc keeps it, until something else ends above it
        return dict(zip(self.outputs, values, strict=True))

    def _free(self) -> None:
        del self._session


def _most_kept(device: Device, budget: Budget) -> int:
    """Tokens of a call whose memory is kept for the next: as many as the scheduler joins.

    Longer texts go alone, and their time is not that of taking memory. On a GPU all is kept.
    """
    return budget.tokens if device is Device.CPU else sys.maxsize


def _session_options(
    threads: int | None, *, spinning: bool, integer_products: bool
) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised too, with the same words
    # Shapes differ from call to call, so a memory plan per shape would only pile up.
    options.enable_mem_pattern = False
    if not spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if not has_vnni():
        options.add_session_config_entry(_EXACT_WEIGHTS, "1")
    if not (integer_products and has_vnni()):
        options.add_session_config_entry(_NO_QDQ_FUSION, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


_CUDA_HINT = (
    "onnxruntime-gpu, an NVIDIA driver and CUDA with cuDNN are needed; "
    "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
)


def _placed(device: Device, ordinal: int) -> dict[str, int]:
    """The provider's options: which of several GPUs."""
    return {} if device is Device.CPU else {"device_id": ordinal}


def _provider(device: Device) -> str:
    name = _PROVIDERS[device]
    if name not in ort.get_available_providers():
        raise MissingError(f"this ONNX Runtime has no {name}: {_CUDA_HINT}")
    if device is Device.CUDA:
        # CUDA and cuDNN as pip installs them lie where the loader does not look.
        with redirect_stdout(sys.stderr):  # where it says what it does not find
            ort.preload_dlls()
    return name


# Every class of its own, whatever the release has, and the built-in ones that its bindings raise
# for names, types and shapes of inputs that the graph does not have.
_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    TypeError,
    ValueError,
    *(
        value
        for value in vars(ort.capi.onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)
