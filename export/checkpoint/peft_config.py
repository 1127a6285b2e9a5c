"""``adapter_config.json``: what PEFT is given of it, checked before PEFT sees it.

PEFT compiles several of its strings as regular expressions and makes layers of the sizes it
states. So the reference's ``LoraConfig`` is made from :attr:`LoraSettings.checked` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from export.spec import MAX_RANK
from runtimes.errors import InputError, shown
from runtimes.files import MAX_CONFIG_BYTES, read_json

# PEFT variants whose update is not scaling · B · A, and what would import a module by its name.
UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "monteclora_config",
    "velora_config",
    "kasa_config",
    "megatron_config",
)
# Of training, or of other uses of PEFT: without effect on a trained adapter.
IGNORED = (
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "bias",
    "init_lora_weights",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
)
# Others also change the base weights (pissa, olora, loftq, corda, lora_ga), which the adapter file
# does not hold, or are unknown here.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")

# Both tables of patterns stay within the 512 that Python's re keeps compiled; naming every module
# of the published model takes 147.
_MOST_PATTERNS = 200
_MOST_NAMES = 512
_MOST_ALPHA = 1e12
# What a pattern is made of: characters of module names; any character, digit or class, which may
# repeat; anchors; alternatives in groups, which may not repeat, but may be left out.
_REPEAT = r"(?:[*+]|\{\d{1,2}(?:,\d{0,2})?\})"
_ANY = r"(?:\.|\\[.dw]|\[(?:\w(?:-\w)?|\\[.dw])+\])"
_PATTERN = re.compile(
    rf"(?:[\w-]\??|\^|\$|\||\((?:\?:)?|\)\??|{_ANY}(?:{_REPEAT}\??|\?)?)*", re.ASCII
)
_OPTIONAL = re.compile(r"(?<![(*+}])\?")
_LONGEST = 512  # characters of a pattern
_DEEPEST = 8  # groups in groups
# Ways a pattern can match a module's name, summed over a table: the most that re may try. One
# million take at most 0.6 s over the full-size model's modules.
_MOST_WAYS = 1_000_000
_NAME_LENGTH = 40  # of the longest module's name


@dataclass(frozen=True)
class LoraSettings:
    """How an adapter's tensors scale. ``checked`` is what PEFT's ``LoraConfig`` is made from."""

    path: Path
    checked: Mapping[str, Any]

    @property
    def rslora(self) -> bool:
        """Whether the scaling is alpha / √r instead of alpha / r."""
        return bool(self.checked["use_rslora"])

    def rank(self, module: str) -> int:
        """The rank of a module by PEFT's name for it."""
        rank: int = _first_match(self.checked["rank_pattern"], module, self.checked["r"])
        return rank

    def alpha(self, module: str) -> float:
        """The alpha of a module by PEFT's name for it."""
        return float(
            _first_match(self.checked["alpha_pattern"], module, self.checked["lora_alpha"])
        )


def read_lora_settings(folder: Path) -> LoraSettings:
    """Read ``adapter_config.json`` in ``folder``.

    Raises :class:`InputError` for anything but plain LoRA, and for numbers, names and patterns
    that would cost PEFT memory or time without end.
    """
    path = folder / "adapter_config.json"
    raw = read_json(path, MAX_CONFIG_BYTES)
    _check_supported(path, raw)
    if not _is_rank(raw.get("r")) or not _is_alpha(raw.get("lora_alpha")):
        raise InputError(
            f"{path}: r is {shown(raw.get('r'))} and lora_alpha {shown(raw.get('lora_alpha'))}, "
            f"expected a whole number from 1 to {MAX_RANK} and a number from 0 to {_MOST_ALPHA:g}"
        )
    checked = {"r": raw["r"], "lora_alpha": raw["lora_alpha"]}
    for key, check in _CHECKS.items():
        checked[key] = check(f"{path}: {key}", raw.get(key))
    if checked["layers_pattern"] and checked["layers_to_transform"] is None:
        raise InputError(f"{path}: layers_pattern without layers_to_transform, expected both")
    if isinstance(checked["target_modules"], str) and checked["layers_to_transform"] is not None:
        raise InputError(
            f"{path}: layers_to_transform with a pattern as target_modules, expected "
            "a list of names"
        )
    return LoraSettings(path, checked)


def _check_supported(path: Path, raw: Mapping[str, object]) -> None:
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {shown(raw.get('peft_type'))}, expected 'LORA'")
    used = [key for key in UNSUPPORTED if raw.get(key)]
    start = raw.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        used.append(f"init_lora_weights {shown(start)}")
    if raw.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise InputError(
            f"{path}: uses {', '.join(used)}, expected plain LoRA; "
            "merge the adapter with PEFT's merge_and_unload, or train without it"
        )
    known = {"r", "lora_alpha", *_CHECKS, *UNSUPPORTED, *IGNORED}
    if unknown := sorted(key for key, value in raw.items() if value and key not in known):
        raise InputError(
            f"{path}: {shown(unknown[0])} is not a key of plain LoRA that is known here, expected "
            "those of PEFT 0.21; remove it if the adapter was trained without it"
        )


def _is_rank(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_RANK


def _is_alpha(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _MOST_ALPHA  # which NaN is not


def _flag(where: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{where} is {shown(value)}, expected true or false")
    return bool(value)


def _names(where: str, value: object) -> object:
    """Names' ends, which PEFT compares, or one pattern."""
    if isinstance(value, str):
        _check_patterns(where, [value])
        return value
    if value is None:
        return None
    listed = value if isinstance(value, list) and len(value) <= _MOST_NAMES else [None]
    if not all(isinstance(name, str) and 1 <= len(name) <= 200 for name in listed):
        raise InputError(
            f"{where} is {shown(value)}, expected a pattern or a list of at most {_MOST_NAMES} "
            "names of modules"
        )
    return value


def _layers(where: str, value: object) -> object:
    numbers = value if isinstance(value, list) else [value]
    if value is not None and (
        len(numbers) > _MOST_NAMES or not all(type(n) is int and 0 <= n < 2**31 for n in numbers)
    ):
        raise InputError(f"{where} is {shown(value)}, expected the numbers of layers")
    return value


def _layers_pattern(where: str, value: object) -> object:
    patterns: list[Any] = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"{where} is {shown(value)}, expected patterns")
    _check_patterns(where, patterns)
    return value or None


def _table(valid: Callable[[object], bool], expected: str) -> Callable[[str, object], object]:
    def check(where: str, value: object) -> object:
        table = value or {}
        if not isinstance(table, dict):
            raise InputError(f"{where} is {shown(value)}, expected an object")
        for pattern, number in table.items():
            if not valid(number):
                raise InputError(
                    f"{where} of {shown(pattern)} is {shown(number)}, expected {expected}"
                )
        _check_patterns(where, list(table))
        return table

    return check


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "use_rslora": _flag,
    "target_modules": _names,
    "exclude_modules": _names,
    "layers_to_transform": _layers,
    "layers_pattern": _layers_pattern,
    "rank_pattern": _table(_is_rank, f"a whole number from 1 to {MAX_RANK}"),
    "alpha_pattern": _table(_is_alpha, f"a number from 0 to {_MOST_ALPHA:g}"),
}


def _check_patterns(where: str, patterns: list[str]) -> None:
    """Refuse what could take long to match: ``re`` has no limit of its own."""
    if len(patterns) > _MOST_PATTERNS:
        raise InputError(f"{where} has {len(patterns)} patterns, expected {_MOST_PATTERNS} at most")
    ways = 0
    for pattern in patterns:
        if len(pattern) > _LONGEST or not _PATTERN.fullmatch(pattern):
            raise InputError(
                f"{where} {shown(pattern)} is not a pattern that is safe to run, expected names of "
                r"modules with ., \., \d, \w, [0-9], *, +, ?, {1,2}, ^, $, alternatives in groups"
            )
        ways += _ways(pattern)
        if ways > _MOST_WAYS:
            raise InputError(
                f"{where} {shown(pattern)} takes too many attempts to match, expected fewer "
                "alternatives, * and +; name the modules one by one"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{where} {shown(pattern)} is not a pattern ({error})") from error


def _ways(pattern: str) -> int:
    """How many ways ``re`` can try to match a module's name, at most.

    Each path through the alternatives, times each way to share the name among what repeats
    (PEFT's own ``(.*\\.)?`` before the pattern too).
    """
    paths, open_groups = 1, [1]
    for character in pattern:
        if character == "(":
            open_groups.append(1)
        elif character == ")" and len(open_groups) > 1:
            paths *= open_groups.pop()
        elif character == "|":
            open_groups[-1] += 1
        if len(open_groups) > _DEEPEST:
            return _MOST_WAYS + 1
    paths <<= len(_OPTIONAL.findall(pattern))
    repeats = sum(map(pattern.count, "*+{")) + 1
    return paths * open_groups[0] * comb(_NAME_LENGTH + repeats, repeats)


def _first_match(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's per-module override: the first pattern that matches the module's name to its end."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
