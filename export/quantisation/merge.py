"""Ranges of several calibrations as one: what any of their texts reached is in range.

The greatest magnitude of each channel is exact in a table, so the greatest of all tables is that of
all their texts, and with min-max so is a plain input's range. What depends on more than maxima is
measured again with them, on some short texts: alpha, the smoothed range, sensitivity. The other
observers choose from a histogram, of which a table has a digest alone; those cannot be merged.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.collect import Activation
from calibration.corpus import corpus_sha256, load_corpus
from calibration.observers import HEADROOM
from calibration.profile import merged_profile
from calibration.table import (
    Calibration,
    Corpus,
    Counts,
    Setting,
    storage_setting,
    write_calibration,
)
from export.quantisation.calibrate import measure, require_own
from export.quantisation.compare import open_table
from export.quantisation.subject import Subject, sample_texts
from runtimes.choices import Observer
from runtimes.errors import InputError, shown
from runtimes.files import require_file_place


def merged_path(subject: Subject) -> Path:
    """Beside the task's own calibration, which is not touched."""
    return subject.path.with_name(f"{subject.path.stem}-merged.json")


def merge(subject: Subject, paths: Sequence[Path]) -> Calibration:
    """Write the calibration that covers those at ``paths``, files or bundles, and return it.

    Raises :class:`InputError` unless they are at least two different ones of the subject's model,
    task and type, with the same instructions and the observer min-max.
    """
    spec, target = subject.spec.calibration, merged_path(subject)
    if spec.observer is not Observer.MIN_MAX:
        raise InputError(f"MERGE: got OBSERVER={spec.observer}, expected min-max; leave it out")
    require_file_place(target)
    tables = {table.key: table for table in (_open(subject, path) for path in paths)}
    if len(tables) < 2:
        raise InputError(
            f"MERGE: got {len(tables)} calibration, expected at least two different ones"
        )
    parts = [tables[key] for key in sorted(tables)]  # in whatever order they were named
    texts = load_corpus(spec.data, column=spec.column)
    measured = measure(subject, sample_texts(subject, texts), _activations(parts))
    header = Calibration(
        model_sha256=subject.model_sha256,
        task=subject.task,
        corpus=_corpus(parts),
        settings={
            **_settings(parts),
            "tried_on": corpus_sha256(texts),
            **storage_setting(subject.spec.scheme.operands),
        },
        tensors=measured,
        profile=merged_profile([part.profile for part in parts]),
    )
    ranges = {n: replace(r, histogram_digest=_digest(parts, n)) for n, r in header.ranges.items()}
    merged = replace(header, tensors=ranges)
    write_calibration(target, merged)
    return merged


def _open(subject: Subject, path: Path) -> Calibration:
    table = open_table(path).table
    require_own(subject, table, f"MERGE: {path}")
    if (observer := table.settings["observer"]) != Observer.MIN_MAX:
        raise InputError(
            f"MERGE: {path}: its observer is {shown(observer)}, expected min-max: the others "
            "choose from histograms, which tables do not keep; calibrate on all texts together"
        )
    own = json.dumps(dict(subject.plan.prefixes), sort_keys=True)
    if (prefixes := table.settings.get("prefixes")) != own:
        raise InputError(
            f"MERGE: {path}: its texts had the instructions {shown(prefixes)}, expected {own}; "
            "calibrate again"
        )
    return table


def _activations(parts: Sequence[Calibration]) -> dict[str, Activation]:
    """What all texts together reached: their maxima, which are all that min-max asks for."""
    merged = {}
    for name in parts[0].ranges:
        channels = [np.array(part.ranges[name].channel_max, np.float32) for part in parts]
        merged[name] = Activation()
        for channel_max in channels:
            merged[name].add(channel_max, channel_max)
    return merged


def _settings(parts: Sequence[Calibration]) -> dict[str, Setting]:
    """``texts`` add up, ``max_tokens`` is the greatest, and the parts are named by their keys."""
    return {
        "observer": Observer.MIN_MAX.value,
        "headroom": HEADROOM,
        "texts": sum(int(part.settings.get("texts", 0)) for part in parts),
        "max_tokens": max(int(part.settings.get("max_tokens", 0)) for part in parts),
        "prefixes": parts[0].settings["prefixes"],
        "merged": ",".join(part.key for part in parts),
    }


def _corpus(parts: Sequence[Calibration]) -> Corpus:
    """The hash of the parts' hashes, and their counts added up."""

    def added(rows: Sequence[Mapping[str, int]]) -> dict[str, int]:
        total: Counter[str] = Counter()
        for row in rows:
            total.update(row)
        return dict(total)

    counts = [part.corpus.counts for part in parts]
    return Corpus(
        sha256=_sha256(sorted({part.corpus.sha256 for part in parts})),
        counts=Counts(
            task=added([c.task for c in counts]),
            language=added([c.language for c in counts]),
            length=added([c.length for c in counts]),
        ),
    )


def _digest(parts: Sequence[Calibration], name: str) -> str:
    return _sha256([part.ranges[name].histogram_digest for part in parts])


def _sha256(hashes: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
