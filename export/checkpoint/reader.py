"""Both published formats of jina-embeddings-v3 as one :class:`Checkpoint`.

Only JSON and safetensors are read; nothing from a checkpoint is executed, and no name in it
becomes a path unless :mod:`export.spec` allows it for a task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.config import EncoderConfig, read_config
from export.checkpoint.lora import Adapter, LoraPair
from export.checkpoint.names import Module, adaptable_modules, tensor_shapes
from export.checkpoint.peft_folder import read_peft_adapter
from export.checkpoint.tensors import SafetensorFiles, plain
from runtimes.choices import BASE_TASK
from runtimes.errors import InputError, shown
from runtimes.files import MAX_CONFIG_BYTES, read_json

_PARAMETRIZATION = ".parametrizations.weight."
# Copied into bundles unread; a link could stand in their place for a file that is not the model's.
_COPIED = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: headers were read and checked, tensors are read on demand."""

    folder: Path
    name: str
    format: str
    config: EncoderConfig
    files: SafetensorFiles
    revision: str | None = None
    adapter_path: Path | None = None
    adapter_task: str | None = None

    def read(self, name: str, rows: slice = slice(None)) -> NDArray[np.float32]:
        """A base tensor by canonical name (or some of its rows) in FP32, as stored."""
        return self.files.read(_file_key(self.format, name), rows)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The adapters' names in the order of ``task_id``; a user's own adapter comes last."""
        own = (self.adapter_task,) if self.adapter_task else ()
        return tuple(t for t in self.config.tasks if t not in own) + own

    def adapter(self, task: str) -> Adapter:
        """One task's updates; ``base`` has none. An unknown task is an error."""
        if task == BASE_TASK:
            return Adapter(task, {})
        if task == self.adapter_task and self.adapter_path is not None:
            return read_peft_adapter(self.adapter_path, task, self.config)
        if task not in self.config.tasks:
            known = ", ".join((*self.tasks, BASE_TASK))
            raise InputError(
                f"TASK: {self.folder} has no adapter {task!r}, expected one of {known}; "
                "for an adapter of your own, set ADAPTER_PATH too"
            )
        if self.format == "native":
            return read_peft_adapter(self.adapter_folder(task), task, self.config)
        return self._bank_entry(task)

    def adapter_folder(self, task: str) -> Path:
        """The PEFT folder of one of a native checkpoint's own tasks."""
        return self.folder / task.replace(".", "_").replace("-", "_")

    def _bank_entry(self, task: str) -> Adapter:
        index = self.config.tasks.index(task)
        scaling = self.config.lora_alpha / self.config.lora_rank
        modules = {}
        for module in adaptable_modules(self.config).values():
            a = self.files.read(lora_key(module.name, "A"), index)
            b = self.files.read(lora_key(module.name, "B"), index)
            down, up = (a, b) if module.embedding else (a.T, b.T)
            modules[module.name] = LoraPair(
                np.ascontiguousarray(down), np.ascontiguousarray(up), scaling
            )
        return Adapter(task, modules)


def open_checkpoint(
    folder: Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    adapter_path: Path | None = None,
    adapter_task: str | None = None,
) -> Checkpoint:
    """Open a checkpoint folder and check that every tensor is there in the right shape.

    Raises :class:`InputError` with the file, the tensor and what was expected.
    """
    if not folder.is_dir():
        raise InputError(f"MODEL: {folder} is not a folder")
    kind, config = read_config(folder)
    for copied in _COPIED:
        if os.path.lexists(folder / copied):
            read_json(folder / copied, MAX_CONFIG_BYTES)
    files = SafetensorFiles(folder, "model")
    expected = {_file_key(kind, key): shape for key, shape in tensor_shapes(config).items()}
    if kind == "original":
        expected |= _bank_shapes(config, adaptable_modules(config).values())
    _check(folder, files, expected)
    return Checkpoint(
        folder=folder,
        name=name or folder.resolve().name,
        format=kind,
        config=config,
        files=files,
        revision=revision,
        adapter_path=adapter_path,
        adapter_task=adapter_task if adapter_path else None,
    )


def _check(folder: Path, files: SafetensorFiles, expected: dict[str, tuple[int, ...]]) -> None:
    if missing := sorted(set(expected) - files.names):
        raise InputError(
            f"{folder}: tensor {missing[0]} is missing ({len(missing)} in all), expected shape "
            f"{list(expected[missing[0]])}; config.json and the weights do not belong together"
        )
    if extra := sorted(files.names - set(expected)):
        raise InputError(
            f"{files.path(extra[0])}: unexpected tensor {plain(extra[0])} ({len(extra)} in all); "
            "config.json names fewer layers or adapters than the weights hold, or this is "
            "another architecture"
        )
    for key, shape in expected.items():
        if (got := files.shape(key)) != shape:
            raise InputError(
                f"{files.path(key)}: {key} has shape {shown(list(got))}, expected {list(shape)}; "
                "check config.json against the weights"
            )


def _bank_shapes(config: EncoderConfig, modules: Iterable[Module]) -> dict[str, tuple[int, ...]]:
    tasks, rank = len(config.tasks), config.lora_rank
    shapes: dict[str, tuple[int, ...]] = {}
    for module in modules:
        rows, columns = (tasks, module.rows, rank), (tasks, rank, module.columns)
        if not module.embedding:  # a linear layer stores A and B transposed
            rows, columns = (tasks, rank, module.rows), (tasks, module.columns, rank)
        shapes[lora_key(module.name, "A")] = rows
        shapes[lora_key(module.name, "B")] = columns
    return shapes


def _file_key(kind: str, name: str) -> str:
    if kind == "native":
        return name
    if re.search(r"(embeddings\.\w+|Wqkv|out_proj|fc1|fc2|dense)\.weight$", name):
        name = name.removesuffix(".weight") + _PARAMETRIZATION + "original"
    return "roberta." + name


def lora_key(module: str, side: str) -> str:
    """The original format's key of a module's bank, ``side`` A or B."""
    return f"roberta.{module}{_PARAMETRIZATION}0.lora_{side}"
