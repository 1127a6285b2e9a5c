"""A checkpoint of any family and file format as one :class:`Checkpoint`.

Only JSON and safetensors are read; nothing from a checkpoint is executed, and no name in it
becomes a path unless :mod:`export.spec` allows it for a task.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.config import read_config
from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.family import Family
from export.checkpoint.lora import Adapter, LoraPair
from export.checkpoint.names import adaptable_modules, tensor_shapes
from export.checkpoint.peft_folder import read_peft_adapter
from export.checkpoint.tensors import SafetensorFiles, plain
from runtimes.choices import BASE_TASK
from runtimes.errors import InputError, shown
from runtimes.files import MAX_CONFIG_BYTES, read_json

# Copied into bundles unread; a link could stand in their place for a file that is not the model's.
_COPIED = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: headers were read and checked, tensors are read on demand."""

    folder: Path
    name: str
    family: Family
    config: EncoderConfig
    files: SafetensorFiles
    revision: str | None = None
    adapter_path: Path | None = None
    adapter_task: str | None = None

    @property
    def format(self) -> str:
        """The file format's name, as manifests have it."""
        return self.family.format

    def read(self, name: str, rows: slice = slice(None)) -> NDArray[np.float32]:
        """A base tensor by canonical name (or some of its rows) in FP32, as stored."""
        keys = self.family.keys(name)
        if len(keys) == 1:
            return self.files.read(keys[0], rows)
        return np.concatenate([self.files.read(key) for key in keys])[rows]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The adapters' names in the order of ``task_id``; a user's own adapter comes last."""
        own = (self.adapter_task,) if self.adapter_task else ()
        return tuple(t for t in self.config.tasks if t not in own) + own

    def adapter(self, task: str) -> Adapter:
        """One task's updates; ``base`` has none. An unknown task is an error."""
        if task == BASE_TASK:
            return Adapter(task, {})
        if (folder := self.peft_folder(task)) is not None:
            return read_peft_adapter(folder, task, self.family, self.config)
        return self._bank_entry(task)

    def peft_folder(self, task: str) -> Path | None:
        """The PEFT folder of a task's adapter; None where the model's file holds the adapter.

        Raises :class:`InputError` for a task without an adapter.
        """
        if task == self.adapter_task and self.adapter_path is not None:
            return self.adapter_path
        if task not in self.config.tasks:
            known = ", ".join((*self.tasks, BASE_TASK))
            raise InputError(
                f"TASK: {self.folder} has no adapter {task!r}, expected one of {known}; "
                "for an adapter of your own, set ADAPTER_PATH too"
            )
        return self._published_folder(task)

    @property
    def published_folders(self) -> tuple[Path, ...]:
        """The PEFT folders of the checkpoint's own adapters."""
        folders = map(self._published_folder, self.config.tasks)
        return tuple(folder for folder in folders if folder is not None)

    def _published_folder(self, task: str) -> Path | None:
        if self.family.bank is not None:
            return None
        return self.folder / task.replace(".", "_").replace("-", "_")

    def _bank_entry(self, task: str) -> Adapter:
        index = self.config.tasks.index(task)
        scaling = self.config.lora_alpha / self.config.lora_rank
        pairs = {}
        for module in adaptable_modules(self.config).values():
            a = self.files.read(self.family.bank_key(module.name, "A"), index)
            b = self.files.read(self.family.bank_key(module.name, "B"), index)
            down, up = (a, b) if module.embedding else (a.T, b.T)
            pairs[module.name] = LoraPair(
                np.ascontiguousarray(down), np.ascontiguousarray(up), scaling
            )
        return Adapter(task, pairs)


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
    family, config = read_config(folder)
    for copied in _COPIED:
        if os.path.lexists(folder / copied):
            read_json(folder / copied, MAX_CONFIG_BYTES)
    files = SafetensorFiles(folder, "model")
    _check(folder, files, _stored_shapes(family, config))
    return Checkpoint(
        folder=folder,
        name=name or folder.resolve().name,
        family=family,
        config=config,
        files=files,
        revision=revision,
        adapter_path=adapter_path,
        adapter_task=adapter_task if adapter_path else None,
    )


def _stored_shapes(family: Family, config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that the family's file holds, by its key."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, *columns) in tensor_shapes(config).items():
        keys = family.keys(name)
        shapes |= dict.fromkeys(keys, (rows // len(keys), *columns))
    if family.bank is not None:
        shapes |= _bank_shapes(family, config)
    return shapes


def _bank_shapes(family: Family, config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    tasks, rank = len(config.tasks), config.lora_rank
    shapes: dict[str, tuple[int, ...]] = {}
    for module in adaptable_modules(config).values():
        a, b = (tasks, module.rows, rank), (tasks, rank, module.columns)
        if not module.embedding:  # a linear layer stores A and B transposed
            a, b = (tasks, rank, module.rows), (tasks, module.columns, rank)
        shapes[family.bank_key(module.name, "A")] = a
        shapes[family.bank_key(module.name, "B")] = b
    return shapes


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
