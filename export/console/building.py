"""The options of the commands that make bundles, and of those that judge them."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from export.console.options import (
    Options,
    checkpoint,
    form,
    kept_tokens,
    one_of,
    parity,
    ranges,
    reference,
    vectors,
)
from export.console.values import name, number, path, paths, whole
from export.devices import DEVICES
from export.request import BuildRequest as Default
from export.spec import BuildSpec
from runtimes.choices import Embeddings, PlanRule, Precision
from runtimes.schemes import BLOCKED, BLOCKS


def engine(command: ArgumentParser) -> None:
    """``adaptrt engine``: everything that a build can set."""
    checkpoint(command)
    form(command)
    options = Options(command, "how it is built")
    add = options.add
    add(
        "--precision",
        "NAME",
        f"{one_of(Precision)}; auto, with a target for CPUs: what is fastest on this one",
        Default.precision,
    )
    add(
        "--target",
        "NAME",
        "tensorrt_rtx (RTX cards; needs no GPU to build), tensorrt (this machine's GPU), "
        "tensorrt10 (built later, on a Jetson), onnxruntime or openvino (CPUs), cpu: the one of "
        "these that suits this CPU, or auto: tensorrt where it and a GPU are, else tensorrt_rtx",
        Default.target,
    )
    add(
        "--gpu",
        "LIST",
        f"architectures for tensorrt_rtx; auto: {', '.join(BuildSpec.gpus)}, or of these what "
        "multiplies the precision",
        Default.gpu,
    )
    add(
        "--rank",
        "N",
        "of --adapter slot: the widest adapter it takes; the ranks of q, k and v add up where "
        "their A differ",
        Default.rank,
        kind=whole,
    )
    add(
        "--layout",
        "NAME",
        "where graphs lie: hub (onnx/model.onnx, as sentence-transformers, Optimum and others look "
        "for it), flat, or auto: hub where such clients understand the bundle",
        Default.layout,
    )
    add(
        "--rest",
        "TYPE",
        "of PRECISION=int8 TARGET=openvino: what is not quantised, bf16 or fp32; auto: bf16",
        Default.rest,
    )
    add(
        "--block",
        "N",
        f"of PRECISION={' or '.join(BLOCKED)}: how many numbers of a weight share a scale, "
        f"{one_of(map(str, BLOCKS))} (default: {BLOCKS[0]})",
        Default.block,
        kind=whole,
    )
    add(
        "--embeddings",
        "TYPE",
        f"how the word embeddings' table is stored, {one_of(Embeddings)}; same: as the rest",
        Default.embeddings,
    )
    add(
        "--device",
        "NAME",
        f"a Jetson: {one_of(DEVICES)}; builds for tensorrt10 within its memory, and refuses what "
        "will not fit",
    )
    add(
        "--profiles",
        "LIST",
        "short,long: ranges of text lengths, each with its own memory (default: the device's, or "
        "one range for all)",
    )
    add(
        "--attention-accumulation",
        "NAME",
        "what FP16 engines add attention up in: fp32, or fp16 (faster on GeForce cards; loses "
        "digits with length)",
        Default.attention_accumulation,
    )
    add("--name", "NAME", "the bundle's folder (default: one that says the choices)", kind=name)
    add(
        "--allow-plan",
        "LIST",
        f"publish engines that break these rules: {', '.join(PlanRule)} (default: none)",
        Default.allow_plan,
    )
    options.flag(
        "--refittable", "leave the weights out of the engines, for adaptrt refit; needs a GPU"
    )
    add(
        "--workspace",
        "GIB",
        f"memory TensorRT may use while it builds (default: {BuildSpec.workspace_gib:g}; "
        "of tensorrt10, on the device, 2 or the device's)",
        kind=number,
    )
    kept_tokens(command)
    parity(command)
    ranges(command)


def calibrate(command: ArgumentParser) -> None:
    """``adaptrt calibrate``: what a bundle is made from, and how ranges are measured."""
    checkpoint(command)
    form(command)
    ranges(command)
    options = Options(command, "calibrations made before, as calibration.json or a bundle's folder")
    options.add(
        "--merge",
        "LIST",
        "write one that covers the texts of these, separated by commas",
        kind=paths,
    )
    options.add(
        "--compare",
        "LIST",
        "show how two of them differ, or whether one fits the texts of --calibration-data",
        kind=paths,
    )
    options.flag("--json", "print what --compare shows as JSON")


def refit(command: ArgumentParser) -> None:
    """``adaptrt refit``: another task for an engine without weights."""
    add = Options(command).add
    add("--engine", "FOLDER", "a bundle built with --refittable", kind=path, required=True)
    add("--task", "NAME", "whose weights go in", required=True)
    add(
        "--out",
        "FOLDER",
        "the new bundle goes into FOLDER/<model>/ (default: beside the engine's)",
        kind=path,
    )
    add("--name", "NAME", "the new bundle's folder (default: one that says the choices)", kind=name)
    checkpoint(command)
    parity(command)


def adapter(command: ArgumentParser) -> None:
    """``adaptrt adapter``: a PEFT folder as a file for slots."""
    add = Options(command).add
    add("--peft", "FOLDER", "a LoRA adapter as PEFT saves it", kind=path, required=True)
    add(
        "--bundle",
        "FOLDER",
        "a bundle built with --adapter slot, which the file will fit",
        kind=path,
        required=True,
    )
    add("--out", "FILE", "what to write, NAME.onnx_adapter", kind=path, required=True)


def verify(command: ArgumentParser) -> None:
    """``adaptrt verify``: which bundle."""
    Options(command).add("--bundle", "FOLDER", "the bundle to check", kind=path, required=True)


def prove(command: ArgumentParser) -> None:
    """``adaptrt prove``: which bundle, against what, and how far."""
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "the bundle to prove", kind=path, required=True)
    reference(options, "the checkpoint that it was built from, a folder or a hub id")
    add(
        "--adapter-path",
        "FOLDER",
        "your own LoRA adapter, where the bundle was built with one",
        kind=path,
    )
    add("--max-tokens", "N", "the longest text (default: what the bundle takes)", kind=whole)
    add(
        "--out",
        "FOLDER",
        "where proof.html, proof.json and what was computed go (default: "
        "build/proof/ and the bundle's name)",
        kind=path,
    )
    options.flag("--json", "print proof.json")
    options.flag("--fresh", "compute everything anew, also what an earlier call kept")


def inspect(command: ArgumentParser) -> None:
    """``adaptrt inspect``: which bundle, which call, and in which form."""
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "the bundle to look into", kind=path, required=True)
    add("--gpu", "NAME", "one architecture, such as sm89 (default: all whose kernels differ)")
    add("--batch", "N", "texts of the call whose bytes and operations are counted", 8, kind=whole)
    add("--tokens", "N", "tokens of each of its texts", 512, kind=whole)
    add(
        "--against",
        "FOLDER",
        "another bundle of the model: where this one is predicted to be faster, on one text",
        kind=path,
    )
    options.flag("--json", "print JSON")
    add("--html", "FILE", "write a page with pictures and predicted times instead", kind=path)
    add(
        "--measured",
        "FILE",
        "of --html: gpu-check.json, whose times take the place of predicted ones",
        kind=path,
    )


def evaluate(command: ArgumentParser) -> None:
    """``adaptrt eval``: what is scored, on which tasks, and what it is compared with."""
    options = Options(command)
    add = options.add
    add(
        "--bundle",
        "FOLDER",
        "a bundle with every task, or several that together have those needed; give the option "
        "again for another",
        kind=path,
        action="append",
        required=True,
    )
    reference(options, "their checkpoint, a folder or a hub id, or none")
    add(
        "--preset",
        "NAME",
        "fast (the project's own texts, no download) or release (the tasks with published scores)",
        "fast",
    )
    add("--tasks", "LIST", "names of MTEB's tasks instead, separated by commas")
    vectors(options, None, " (default: on a CPU, what each bundle was built for)")
    add("--out", "FOLDER", "where MTEB's result files go", Path("build/eval"), kind=path)
    options.flag("--json", "print JSON")
    options.flag(
        "--gate",
        "end with 3 where the mean of STS or of retrieval is not the checkpoint's",
    )
