"""Every CUDA call of the project, against the real cuda-python."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from cuda.bindings import driver
from cuda.bindings import runtime as api

import runtimes.executors.tensorrt.cuda
from runtimes.errors import AdaptrtError, MissingError
from runtimes.executors.tensorrt.cuda import Cuda, device_name, device_sm, load_cuda

SOURCE = Path(runtimes.executors.tensorrt.cuda.__file__).read_text()
NO_GPU = api.cudaGetDeviceCount()[0] != api.cudaError_t.cudaSuccess
ARGUMENTS = {
    "size": 16,
    "ordinal": 0,
    "pointer": 4096,
    "device": 4096,
    "host": 8192,
    "stream": 0,
    "graph": 0,
    "executable": 0,
}
METHODS = {
    name: method
    for name, method in vars(Cuda).items()
    if inspect.isfunction(method) and not name.startswith("_")
    if name not in ("selected", "clear_error")  # of several calls; of one that gives no error
}


def called() -> dict[str, str]:
    """Each method's CUDA function, from the source."""
    (made,) = (n for n in ast.parse(SOURCE).body if isinstance(n, ast.ClassDef))
    functions = {}
    for method in (n for n in made.body if isinstance(n, ast.FunctionDef)):
        for node in ast.walk(method):
            match node:
                case ast.Call(func=ast.Attribute(attr="_call"), args=[ast.Constant(value), *_]):
                    functions[method.name] = str(value)
    return functions


def test_every_method_calls_a_function_that_exists() -> None:
    assert called().keys() == METHODS.keys()
    assert [name for name in called().values() if not hasattr(api, name)] == []


@pytest.mark.skipif(not NO_GPU, reason="the arguments are made up, for a machine without a GPU")
@pytest.mark.parametrize("name", METHODS)
def test_real_function_takes_the_arguments_and_its_error_is_ours(name: str) -> None:
    """Argument types are checked by the bindings before they look for a driver."""
    parameters = [p for p in inspect.signature(METHODS[name]).parameters if p != "self"]
    words = rf"^{called()[name]}: cudaError(InsufficientDriver|NoDevice) \("
    with pytest.raises(AdaptrtError, match=words):
        METHODS[name](Cuda(api), *(ARGUMENTS[p] for p in parameters))


def test_wrong_argument_is_seen() -> None:
    """The negative control of the test above."""
    with pytest.raises(TypeError):
        Cuda(api).malloc("16")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Cuda(api)._call("cudaStreamBeginCapture", 0)


@pytest.mark.skipif(not NO_GPU, reason="a GPU is there")
def test_no_gpu_is_a_missing_piece_in_one_line() -> None:
    assert device_sm() is None
    assert device_name() is None
    with pytest.raises(MissingError, match="no usable NVIDIA GPU: cudaGetDeviceCount: cudaError"):
        load_cuda()


def test_driver_calls_exist() -> None:
    for name, count in (
        ("cuInit", 1),
        ("cuDeviceGet", 1),
        ("cuDeviceGetAttribute", 2),
        ("cuDeviceGetName", 2),
    ):
        assert name in SOURCE
        assert len(inspect.signature(getattr(driver, name)).parameters) == count
    names = driver.CUdevice_attribute.__members__
    assert {n for n in names if n in SOURCE} == {
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    }
