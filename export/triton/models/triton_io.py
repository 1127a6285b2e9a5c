"""Between Triton's tensors and named NumPy arrays. Copied beside each model that runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from runtimes.errors import AdaptrtError, InputError

Arrays = Mapping[str, NDArray[Any]]


def inputs_of(request: Any) -> dict[str, NDArray[Any]]:
    """The tensors of a request by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def outputs(arrays: Arrays) -> Any:
    """A response that holds ``arrays``."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in arrays.items()])


# What passes: overload, and a model that is being loaded.
_PASSING = ("Exceeds maximum queue size", "Request timeout expired", "is not ready")


class ModelError(AdaptrtError):
    """Another model of this server answered with an error; ``code`` is Triton's."""

    def __init__(self, message: str, code: Any) -> None:
        super().__init__(message)
        self.code = code


def failure(error: AdaptrtError) -> Any:
    """A response that fails one request and no other.

    Bad input is the caller's fault (HTTP 400); what another model said keeps its code, so that
    overload (503) is told from a defect (500).
    """
    code = pb_utils.TritonError.INTERNAL
    if isinstance(error, InputError):
        code = pb_utils.TritonError.INVALID_ARG
    elif isinstance(error, ModelError):
        code = error.code
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def answer(request: Any, function: Callable[[Arrays], Arrays]) -> Any:
    """The response to one request.

    One whose client has hung up, mostly at its deadline, is not computed: under overload a server
    that does would work for nobody.
    """
    if request.is_cancelled():
        gone = pb_utils.TritonError("the client has hung up", pb_utils.TritonError.CANCELLED)
        return pb_utils.InferenceResponse(error=gone)
    try:
        return outputs(function(inputs_of(request)))
    except AdaptrtError as error:
        return failure(error)


def call(model: str, inputs: Arrays, output_names: list[str]) -> dict[str, NDArray[Any]]:
    """Ask another model of this server; its error becomes a :class:`ModelError`."""
    response = pb_utils.InferenceRequest(
        model_name=model,
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        requested_output_names=output_names,
    ).exec()
    if response.has_error():
        message = response.error().message()
        # Every failed call comes back as INTERNAL; what it is stands in the words alone.
        passing = any(words in message for words in _PASSING)
        codes = pb_utils.TritonError
        raise ModelError(f"{model}: {message}", codes.UNAVAILABLE if passing else codes.INTERNAL)
    tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
    return {name: tensors[name].as_numpy() for name in output_names}
