"""Doubles of the bindings' objects that only a driver could make.

Their calls are checked against the signatures that pybind11 wrote into the docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

INFORMATION = json.dumps({"Layers": [{"Name": "fc1_myl0_0", "LayerType": "gemm"}]})


def double(real: Any, cls: type, **values: Any) -> Any:
    """An autospec'ed instance: no name that ``cls`` lacks, no call its signature refuses."""
    made = mock.create_autospec(cls, instance=True, spec_set=True)
    for name in (n for n in dir(cls) if not n.startswith("_")):
        if signatures := _signatures(real, getattr(cls, name, None), name):
            getattr(made, name).side_effect = _checked(name, signatures)
    for name, value in values.items():
        if callable(getattr(cls, name, None)):
            getattr(made, name).return_value = value
        else:
            setattr(made, name, value)
    return made


def _signatures(real: Any, method: Any, name: str) -> list[inspect.Signature]:
    doc = getattr(method, "__doc__", None) or ""
    found = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\(self: [\w.]+(.*)\) ->", doc, re.MULTILINE)
    return [_signature(real, text.lstrip(", ")) for text in found]


def _signature(real: Any, text: str) -> inspect.Signature:
    parameters: list[inspect.Parameter] = []
    for part in re.split(r", (?=\w+:)", text) if text else []:
        name, _, rest = part.partition(": ")
        annotation, equals, _ = rest.partition(" = ")
        # pybind11 allows what Python does not: no default after one that has.
        optional = equals or (parameters and parameters[-1].default is None)
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=None if optional else inspect.Parameter.empty,
                annotation=_own_type(real, annotation),
            )
        )
    return inspect.Signature(parameters)


def _own_type(real: Any, annotation: str) -> Any:
    """TensorRT's own types are checked, but for Dims, which converts from tuples.

    A class that the bindings define after its use stands there as in C++.
    """
    name = re.split(r"\.|::", annotation)[-1]
    modules = ("tensorrt_bindings.", "tensorrt_rtx_bindings.", "nvinfer1::")
    own = annotation.startswith(modules) and name not in ("Dims", "DimsExprs")
    return getattr(real, name, object) if own else object


def _checked(name: str, signatures: list[inspect.Signature]) -> Callable[..., Any]:
    def check(*args: Any, **kwargs: Any) -> Any:
        refusals = []
        for signature in signatures:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                refusals.append(str(error))
                continue
            wrong = [
                n
                for n, v in bound.arguments.items()
                if not isinstance(v, signature.parameters[n].annotation)
            ]
            if not wrong:
                return mock.DEFAULT
            refusals.append(f"wrong type for {', '.join(wrong)}")
        raise TypeError(f"{name}: {'; '.join(refusals)}")

    return check


def flavour(
    real: Any,
    *,
    parses: bool = True,
    profile: int = 0,
    plan: Any = b"plan",
    cache_fits: bool = True,
) -> Any:
    """The bindings with a Builder and an OnnxParser that need no driver."""
    tensors = [
        double(real, real.ITensor, name=n, shape=(-1, -1)) for n in ("input_ids", "attention_mask")
    ]
    network = double(real, real.INetworkDefinition, num_inputs=len(tensors))
    network.get_input.side_effect = lambda index: tensors[index]
    cache = double(real, real.ITimingCache, serialize=b"timings")
    config = double(
        real,
        real.IBuilderConfig,
        add_optimization_profile=profile,
        create_timing_cache=cache,
        set_timing_cache=cache_fits,
        get_timing_cache=cache,
        num_optimization_profiles=1,
    )
    builder = double(
        real,
        real.Builder,
        create_network=network,
        create_builder_config=config,
        create_optimization_profile=double(real, real.IOptimizationProfile),
        build_serialized_network=plan,
    )
    error = double(
        real,
        real.ParserError,
        node_name="encoder.layers.3.mlp.fc1.MatMul",
        node_operator="MatMul",
        desc="does not fit",
    )
    parser = double(real, real.OnnxParser, parse_from_file=parses, num_errors=1, get_error=error)
    loggers: list[Any] = []

    def make_builder(logger: Any) -> Any:
        loggers.append(logger)
        logger.log(real.ILogger.INFO, "Total Activation Memory: 4096 bytes")
        if plan is None:
            logger.log(real.ILogger.ERROR, "out of workspace")
            logger.log(real.ILogger.WARNING, "chatter")
        return builder

    def make_parser(network: Any, logger: Any) -> Any:
        if not isinstance(network, real.INetworkDefinition) or logger not in loggers:
            raise TypeError("OnnxParser(network, logger)")
        return parser

    inspector = double(real, real.EngineInspector, get_engine_information=INFORMATION)
    engine = double(real, real.ICudaEngine, create_engine_inspector=inspector)
    runtime = double(real, real.Runtime, deserialize_cuda_engine=engine)
    module = types.ModuleType("tensorrt")
    module.__dict__.update(
        {k: v for k, v in vars(real).items() if not k.startswith("__")},
        Builder=make_builder,
        OnnxParser=make_parser,
        Runtime=lambda logger: runtime,
        __version__=real.__version__,
        made=(builder, config, network),
    )
    return module
