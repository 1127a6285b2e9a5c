"""The reference encoder: the family's own implementation with the task's adapter put in by PEFT.

Nothing of this project's adapter arithmetic takes part: tensors are given to the family's model
and to PEFT by their own names, PEFT computes the scaling, and A and B of a bank go into PEFT's
layers as they are stored. No library opens a file of a checkpoint: they would follow keys that
were not checked, to quantisers, other adapters and initialisations.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from export.checkpoint.peft_config import read_lora_settings
from export.checkpoint.reader import Checkpoint
from export.checkpoint.tensors import SafetensorFiles
from runtimes.choices import BASE_TASK
from runtimes.errors import AdaptrtError, InputError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ADAPTER = "task"


def reference_model(checkpoint: Checkpoint, task: str) -> nn.Module:
    """The FP32 reference for one task, attention through scaled-dot-product attention."""
    with _quiet():
        model = checkpoint.family.reference(checkpoint)
        if task == BASE_TASK:
            return model
        if (folder := checkpoint.peft_folder(task)) is not None:
            _load_folder(model, folder)
        else:
            _load_bank_entry(model, checkpoint, task)
    return model


def _load_folder(model: Any, folder: Path) -> None:
    """PEFT's own loading; then every tensor of the file must be found in the model's layers.

    PEFT leaves a layer it could not fill at its initial value, where it changes nothing.
    """
    from peft import LoraConfig

    files = SafetensorFiles(folder, "adapter_model", sharded=False)
    state = {key: torch.from_numpy(files.read(key)) for key in files.names}
    try:
        _load(model, LoraConfig(**read_lora_settings(folder).checked), state, folder)
    except ValueError as error:  # target_modules that match nothing, for one
        reason = one_line(str(error))[:200]
        raise InputError(f"{folder}: PEFT refuses the adapter ({reason}); save it again") from error


def _load_bank_entry(model: Any, checkpoint: Checkpoint, task: str) -> None:
    from peft import LoraConfig

    bank, config = checkpoint.family.bank, checkpoint.config
    if bank is None:
        raise ValueError(f"{checkpoint.format} has no adapters in the model's file")
    state = bank.peft_state(checkpoint, task)
    targets = sorted({key.split(".lora_")[0] for key in state})
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets)
    _load(model, lora, state, checkpoint.folder)


def _load(model: Any, lora: Any, state: dict[str, torch.Tensor], source: Path) -> None:
    model.load_adapter(peft_config=lora, adapter_state_dict=dict(state), adapter_name=_ADAPTER)
    model.set_adapter(_ADAPTER)
    _check_loaded(model, [value.numpy() for value in state.values()], source)


def _check_loaded(model: nn.Module, expected: list[NDArray[np.float32]], source: Path) -> None:
    loaded = Counter(
        _digest(p.detach().float().numpy()) for n, p in model.named_parameters() if "lora_" in n
    )
    if missing := Counter(map(_digest, expected)) - loaded:
        raise AdaptrtError(
            f"{source}: the reference did not load {missing.total()} of {len(expected)} adapter "
            "tensors; its names do not match the reference's modules"
        )


def _digest(array: NDArray[np.float32]) -> tuple[tuple[int, ...], str]:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps load reports and progress bars of transformers and PEFT out of our output."""
    from transformers.utils import logging as hf

    bars, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    peft_level = logging.getLogger("peft").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hf.disable_progress_bar()
            hf.set_verbosity_error()
            yield
        finally:
            hf.set_verbosity(level)
            logging.getLogger("peft").setLevel(peft_level)
            if bars:
                hf.enable_progress_bar()
