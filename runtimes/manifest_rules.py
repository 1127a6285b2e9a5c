"""What must hold between the entries of a manifest, beyond each one's own type and range."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import ALL_TASKS, BASE_TASK, AdapterMode
from runtimes.combinations import RULES, Combination
from runtimes.errors import shown
from runtimes.manifest_records import Manifest

# No hidden files, no "..", nothing absolute, no backslash, no control character.
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
_PATH = re.compile(rf"{_NAME}(/{_NAME}){{0,3}}")
Rule = tuple[str, object, bool, str]  # key, what is there, whether it holds, what is expected


def broken_rule(manifest: Manifest) -> str | None:
    """The first rule that a manifest breaks: "key: got …, expected …"; None where all hold."""
    for rules in (_choices, _tasks, _shapes, _ranges, _artifacts):
        for key, value, holds, expected in rules(manifest):
            if not holds:
                return f"{key}: got {shown(value)}, expected {expected}"
    return None


def _choices(m: Manifest) -> Iterator[Rule]:
    slot = m.adapter is AdapterMode.SLOT
    ranked = (m.slot_rank is not None) == slot
    yield "slot_rank", m.slot_rank, ranked, "a number where the adapter is a slot, else null"
    combination = Combination(
        precision=m.precision,
        target=m.target.name,
        adapter=m.adapter,
        interface=m.interface,
        head=m.head,
        layout=m.layout,
        rest=m.rest,
        embeddings=m.embeddings,
        pruned=m.vocabulary is not None,
    )
    for rule in RULES:
        value = getattr(combination, rule.key)
        yield rule.key, value, not rule.refuses(combination), rule.expected
    cost, quantised = m.table_cost, combination.table.storage is not None
    yield "table_cost", cost, quantised or cost is None, "nothing where the table is not quantised"
    yield "parity", m.parity, m.parity is not None, "how the bundle compared with the reference"


def _tasks(m: Manifest) -> Iterator[Rule]:
    switchable = m.adapter is AdapterMode.SWITCHABLE
    alone = m.tasks[0] if len(m.tasks) == 1 else ALL_TASKS
    with_prefix = {*m.tasks, BASE_TASK} if switchable else set(m.tasks)
    yield "tasks", m.tasks, len(set(m.tasks)) == len(m.tasks), "each name once"
    yield "tasks", m.tasks, switchable or len(m.tasks) == 1, "one task, or a switchable adapter"
    yield "task", m.task, m.task == alone, f"{alone}, as tasks says"
    yield "prefixes", m.prefixes, set(m.prefixes) == with_prefix, f"those of {sorted(with_prefix)}"


def _shapes(m: Manifest) -> Iterator[Rule]:
    hidden, vocab = m.architecture.hidden, m.architecture.vocab
    longest = m.architecture.max_positions - 2  # two position slots are padding's
    ascending = all(a < b for a, b in pairwise(m.dimensions)) and m.dimensions[-1] == hidden
    yield "max_tokens", m.max_tokens, m.max_tokens <= longest, f"at most {longest}, the model's"
    yield "dimensions", m.dimensions, ascending, f"ascending numbers up to {hidden}, the model's"
    yield "pad_id", m.pad_id, m.pad_id < vocab, f"a number below {vocab}, the model's vocabulary"
    if (kept := m.vocabulary) is not None:
        yield "vocabulary.of", kept.of, kept.of == vocab, f"{vocab}, the model's vocabulary"
        yield "vocabulary.rows", kept.rows, kept.rows <= vocab, f"at most {vocab}"
    for i, profile in enumerate(m.profiles):
        sides = zip(profile.min, profile.opt, profile.max, strict=True)
        ordered = all(low <= best <= high for low, best, high in sides)
        yield f"profiles[{i}]", str(profile), ordered, "min <= opt <= max in rows and in tokens"


def _ranges(m: Manifest) -> Iterator[Rule]:
    ranges, tasks = m.output_ranges, set(m.prefixes)
    each = not ranges or set(ranges) == tasks
    yield "output_ranges", ranges, each, f"those of {sorted(tasks)}, or none"
    for task, limits in ranges.items():
        whole = set(limits) == {str(length) for length in m.dimensions}
        yield f"output_ranges.{task}", limits, whole, f"one for each of {list(m.dimensions)}"


def _artifacts(m: Manifest) -> Iterator[Rule]:
    paths = [entry.path for entry in m.artifacts]
    for i, entry in enumerate(m.artifacts):
        plain = _PATH.fullmatch(entry.path) is not None and entry.path != MANIFEST_FILE
        yield f"artifacts[{i}].path", entry.path, plain, "a plain file name inside the bundle"
    yield "artifacts", paths, len(set(paths)) == len(paths), "each path once"
