"""What the contenders need, each made once per work folder: checkpoint, bundles, exports.

The texts (``cases.json``) are there before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from export.checkpoint.source import SAMPLE
from tests.bench.contenders import CONTENDERS, ROOT
from tests.bench.own import BUNDLES, Bundle, bundle_folder
from tests.bench.rivals import CLIENT_FOLDER, NAIVE_FILE, NAIVE_INT8_FILE, NATIVE_FOLDER

_NAIVE_INT8 = "OpenVINO naive INT8"
_NAIVE = {"naive ONNX export", "OpenVINO naive FP32", "OpenVINO naive BF16", _NAIVE_INT8}
_LIBRARY = {"sentence-transformers", "sentence-transformers BF16"}
_CLIENT_OPENVINO = "sentence-transformers OpenVINO"
_CLIENTS = {"sentence-transformers ONNX", _CLIENT_OPENVINO}


def missing(contender: str) -> str | None:
    """Why one cannot be run here, before anything is made for it; None where it can."""
    maker = _CLIENT_OPENVINO if contender == _NAIVE_INT8 else contender  # it brings NNCF
    environment = CONTENDERS[maker].environment
    if environment is not None and not CONTENDERS[maker].python.is_file():
        return f"{environment} is not there: make {environment}/.installed"
    if "OpenVINO" in contender and find_spec("openvino") is None:
        return "openvino is not installed"
    return None


def prepare(work: Path, size: str, contenders: Collection[str]) -> dict[str, str]:
    """Make what is not there yet; those for which it could not be made, and why."""
    from tests.bench import rebuild
    from tests.zoo import SIZES, write_original

    model, wanted = work / "model", set(contenders)
    if not (model / "model.safetensors").is_file():
        if size == "sample":
            shutil.copytree(SAMPLE, model)
        else:
            write_original(model, SIZES[size])
    failed = {}
    for contender in (name for name in BUNDLES if name in wanted):
        if not bundle_folder(work, contender).is_dir() and (code := _build(work, contender)):
            failed[contender] = f"its bundle could not be built (exit code {code})"
    if wanted & (_NAIVE | _LIBRARY | _CLIENTS):
        _once(work / NATIVE_FOLDER, lambda: _save_native(work))
    if wanted & (_NAIVE | _CLIENTS):
        _once(work / NAIVE_FILE, lambda: _export_naive(work))
    if _NAIVE_INT8 in wanted and (reason := _quantise_naive(work)):
        failed[_NAIVE_INT8] = reason
    if wanted & _CLIENTS:
        _once(work / CLIENT_FOLDER, lambda: _arrange_for_clients(work))
    if "rebuild per call" in wanted:
        _once(work / rebuild.FILE, lambda: rebuild.export_rebuild(model, work / rebuild.FILE))
    return failed


def _once(path: Path, make: Callable[[], object]) -> None:
    if not path.exists():
        make()


def _build(work: Path, contender: str) -> int:
    """The exit code of ``adaptrt engine``."""
    where = ("--model", str(work / "model"), "--out", str(work / "bundles"))
    bundle: Bundle = BUNDLES[contender]
    options = bundle.options
    if "int8" in options:  # few and short texts: ranges do not change the speed
        table = work / "bundles" / "model" / "calibration" / "base.json"
        texts = ("--calibration-texts", "24", "--max-tokens", "128")
        calibrate = ("calibrate", *where, "--task", "base", *texts)
        if not table.is_file() and (code := _adaptrt(*calibrate)):
            return code
        options += ("--calibration", str(table))
    return _adaptrt("engine", *where, "--parity-tokens", "64", *options)


def _adaptrt(*arguments: str) -> int:
    from tests.bench.random_model import main

    return main([*arguments])


def _save_native(work: Path) -> None:
    """The checkpoint as transformers saves it, with the tokenizer."""
    model = _transformers_model(work)
    model.save_pretrained(work / NATIVE_FOLDER)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SAMPLE / name, work / NATIVE_FOLDER / name)


def _transformers_model(work: Path) -> Any:
    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model

    return reference_model(open_checkpoint(work / "model"), "base").eval()


def _export_naive(work: Path) -> None:
    """The transformers model as its users export it (opset 18)."""
    import torch

    example = (torch.ones((2, 16), dtype=torch.int64), torch.ones((2, 16), dtype=torch.int64))
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=8192)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _transformers_model(work),
            example,
            str(work / NAIVE_FILE),
            dynamo=True,
            opset_version=18,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            external_data=True,
            verbose=False,
        )


def _quantise_naive(work: Path) -> str | None:
    """Why it could not be; None where the file is there."""
    if (work / NAIVE_INT8_FILE).is_file():
        return None
    python = str(CONTENDERS[_CLIENT_OPENVINO].python)
    command = [python, "-m", "tests.bench.quantise_naive", str(work)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    last = process.stderr.strip().splitlines()[-1:] or ["no reason given"]
    return f"NNCF could not quantise it: {last[0]}" if process.returncode else None


def _arrange_for_clients(work: Path) -> None:
    """The naive export where sentence-transformers' backends look, for ONNX and for OpenVINO.

    Its modules and tokenizer are those of our bundle, whose configuration names a model type that
    older releases of transformers know; the graph is all that is run of it.
    """
    if not bundle_folder(work, "adaptrt").is_dir():
        _build(work, "adaptrt")
    folder = work / CLIENT_FOLDER
    staged = folder.with_name(f"{CLIENT_FOLDER}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    ignored = shutil.ignore_patterns("onnx", "openvino", "manifest.json", "parity.json", "*.npy")
    shutil.copytree(bundle_folder(work, "adaptrt"), staged, ignore=ignored)
    (staged / "onnx").mkdir()
    shutil.copyfile(work / NAIVE_FILE, staged / "onnx" / "model.onnx")
    data = f"{NAIVE_FILE}.data"
    os.link(work / data, staged / "onnx" / data)
    if find_spec("openvino") is not None:
        import openvino as ov

        (staged / "openvino").mkdir()
        model = ov.convert_model(work / NAIVE_FILE)
        ov.save_model(model, staged / "openvino" / "openvino_model.xml", compress_to_fp16=False)
    staged.rename(folder)
