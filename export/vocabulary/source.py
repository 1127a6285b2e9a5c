"""The texts that VOCABULARY names: a file's, some languages', or those of the calibration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from calibration.corpus import Text, load_corpus, own_texts, read_corpus
from export.spec import CalibrationSpec
from runtimes.errors import InputError, shown

CALIBRATION_TEXTS = "texts"  # those that the build's calibration has
_CODES = re.compile(r"[a-z]{2,3}(\s*,\s*[a-z]{2,3})*")


@dataclass(frozen=True)
class Source:
    """A corpus that can be read more than once; ``own``: of the project's texts, which are few."""

    name: str
    texts: Callable[[], Iterator[Text]]
    own: bool


def find_source(
    named: str, calibration: CalibrationSpec, more: Mapping[str, Sequence[str]]
) -> Source:
    """What ``VOCABULARY`` names; ``more`` are texts of the project's besides, by language.

    Raises :class:`InputError` for a language without texts and a file that is not there.
    """
    if named == CALIBRATION_TEXTS:
        own = calibration.data is None
        texts = load_corpus(calibration.data, column=calibration.column)
        name = "the project's texts" if own else f"CALIBRATION_DATA {_file(calibration.data)}"
        return Source(name, lambda: iter(texts), own)
    if _CODES.fullmatch(named):
        return _languages([code.strip() for code in named.split(",")], more)
    path = Path(named)
    if not path.exists():
        raise InputError(
            f"VOCABULARY: got {shown(named)}, which is no file, expected one with texts, languages "
            f"such as de,fr,en, or {CALIBRATION_TEXTS}"
        )
    return Source(_file(path), partial(read_corpus, path, "VOCABULARY"), own=False)


def _file(path: Path | None) -> str:
    """The last part of its name alone, in ASCII: the rest is nobody's business elsewhere."""
    return shown(Path(str(path)).name, 60).encode("ascii", "backslashreplace").decode()


def _languages(codes: Sequence[str], more: Mapping[str, Sequence[str]]) -> Source:
    own = own_texts()
    if unknown := [code for code in codes if code not in own]:
        raise InputError(
            f"VOCABULARY: no texts in {shown(unknown[0])}, expected languages of {','.join(own)}, "
            "or a file of your own texts"
        )
    chosen = sorted(set(codes))
    texts = [Text(code, text) for code in chosen for text in (*own[code], *more.get(code, ()))]
    return Source(f"languages {','.join(chosen)}", lambda: iter(texts), own=True)
