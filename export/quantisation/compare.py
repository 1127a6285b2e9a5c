"""``adaptrt calibrate --compare``: two calibrations, or one and the texts that it is to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.compare import GemmDifference, Overshoot, Reads, gemm_differences
from calibration.corpus import Text, load_corpus
from calibration.fit import Difference, difference_lines, differences, warning_of
from calibration.profile import Profile, profile
from calibration.table import Calibration, read_calibration
from export.checkpoint.source import SAMPLE, resolve
from export.console.progress import log
from export.request import BuildRequest
from export.spec import Limits
from runtimes.bundle_files import CALIBRATION_FILE, TOKENIZER_FILE
from runtimes.errors import InputError
from runtimes.manifest import read_manifest
from runtimes.text.tokenizer_file import load_tokenizer
from runtimes.text.tokens import TextTokenizer

_SHOWN = 10  # GEMMs; JSON has all of them


@dataclass(frozen=True, kw_only=True)
class Named:
    """A calibration, where it was read, and the bundle that it is in, or None."""

    path: Path
    table: Calibration
    bundle: Path | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``texts`` is None where a table of before 2026-11-29 does not say what its texts are like.

    ``gemms`` is None where a calibration was compared with texts alone.
    """

    names: tuple[str, str]
    texts: tuple[Difference, ...] | None
    gemms: tuple[GemmDifference, ...] | None


def compare(
    tables: Sequence[Named], request: BuildRequest, reads: Reads | None = None
) -> Comparison:
    """Compare two calibrations or, where there is one, that with ``CALIBRATION_DATA``.

    Where texts differ by more than chance, a warning is logged. ``reads`` are of the model's
    weights, where they are at hand. Raises :class:`InputError` for other numbers of tables, and
    for tables of different GEMMs or tokenizers.
    """
    data = request.calibration_data
    names = [str(named.path) for named in tables]
    if len(tables) == 1 and data is not None:
        texts = load_corpus(data, column=request.calibration_column)
        rows = check_fit(tables[0].path, tables[0].table, texts, _tokenizer(tables[0], request))
        return Comparison(names=(names[0], str(data)), texts=rows, gemms=None)
    if len(tables) != 2 or data is not None:
        raise InputError(
            f"COMPARE: got {len(tables)} calibrations {'and' if data else 'without'} "
            "CALIBRATION_DATA, expected two calibrations, or one and the texts it is to fit"
        )
    first, second = (named.table for named in tables)
    return Comparison(
        names=(names[0], names[1]),
        texts=_text_differences(first.profile, second.profile, names),
        gemms=gemm_differences(first.ranges, second.ranges, reads),
    )


def open_table(path: Path) -> Named:
    """A ``calibration.json``, or that of a bundle."""
    if not path.is_dir():
        return Named(path=path, table=read_calibration(path), bundle=None)
    file = path / CALIBRATION_FILE
    if not file.exists():
        raise InputError(f"{path}: no {CALIBRATION_FILE} in it; bundles in INT8 or FP8 have one")
    return Named(path=file, table=read_calibration(file), bundle=path)


def check_fit(
    path: Path, table: Calibration, texts: Sequence[Text], tokenizer: TextTokenizer
) -> tuple[Difference, ...]:
    """How ``texts`` differ from those of the table at ``path``; logs a warning where they do.

    Raises :class:`InputError` for a table that does not say what its texts are like.
    """
    if table.profile is None:
        raise InputError(
            f"{path}: it does not say what its texts are like, as tables of before 2026-11-29 do "
            "not; calibrate again"
        )
    rows = differences(table.profile, profile(texts, tokenizer))
    if (warning := warning_of(rows, f"the texts of {path} and CALIBRATION_DATA differ")) is None:
        log.info("calibration: %s fits CALIBRATION_DATA", path)
    else:
        log.warning("warning: %s", warning)
    return rows


def _text_differences(
    first: Profile | None, second: Profile | None, names: Sequence[str]
) -> tuple[Difference, ...] | None:
    if first is None or second is None:
        return None
    rows = differences(first, second)
    if (warning := warning_of(rows, f"the texts of {' and '.join(names)} differ")) is not None:
        log.warning("warning: %s", warning)
    return rows


def _tokenizer(named: Named, request: BuildRequest) -> TextTokenizer:
    """The bundle's, or that of ``MODEL``; another vocabulary is refused later."""
    if named.bundle is not None:
        return load_tokenizer(named.bundle, read_manifest(named.bundle))
    source = resolve(request.model or str(SAMPLE), request.revision)
    most = Limits.max_tokens if request.max_tokens is None else request.max_tokens
    return TextTokenizer(source.folder / TOKENIZER_FILE, max_tokens=most, pad_id=0)


def text_lines(comparison: Comparison) -> list[str]:
    """What the command prints."""
    lines = ["first:  " + comparison.names[0], "second: " + comparison.names[1]]
    if comparison.texts is None:
        lines.append("texts: a table does not say what they are like; calibrate it again")
    else:
        lines += difference_lines(comparison.texts)
    return lines if comparison.gemms is None else [*lines, *_gemm_lines(comparison.gemms)]


def _gemm_lines(gemms: Sequence[GemmDifference]) -> list[str]:
    ratios = sorted(gemm.ratio for gemm in gemms)
    alphas = sum(gemm.alphas[0] != gemm.alphas[1] for gemm in gemms)
    lines = [
        f"{len(gemms)} GEMMs; amplitude, second by first: least {ratios[0]:.3f}, median "
        f"{ratios[len(ratios) // 2]:.3f}, greatest {ratios[-1]:.3f}; {alphas} with another alpha"
    ]
    for label, sides in (
        ("first clips the second's texts", [gemm.first for gemm in gemms]),
        ("second clips the first's texts", [gemm.second for gemm in gemms]),
    ):
        sure, may = (sum(x) for x in zip(*((s.clips, s.may_clip) for s in sides), strict=True))
        unsure = (
            f"; in {may - sure} more it may (exact with their MODEL named)" if may > sure else ""
        )
        lines.append(f"  the {label} in {sure} GEMMs{unsure}")
    lines.append(
        f"{'the most different':34} {'amplitudes':>19} {'ratio':>6} {'alphas':>8}  "
        "beyond the first's, second's range"
    )
    for gemm in gemms[:_SHOWN]:
        one, other = gemm.amplitudes
        lines.append(
            f"{gemm.name:34} {one:9.4g} {other:9.4g} {gemm.ratio:6.2f} "
            f"{gemm.alphas[0]:4.1f}{gemm.alphas[1]:4.1f}  {_beyond(gemm.first)}, "
            f"{_beyond(gemm.second)}"
        )
    return lines


def _beyond(side: Overshoot) -> str:
    if side.factor is None:
        return "unknown"
    return f"{'' if side.exact else 'at most '}{side.factor:.2f}x ({side.channels:.0%} of channels)"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same in full."""
    return asdict(comparison)
