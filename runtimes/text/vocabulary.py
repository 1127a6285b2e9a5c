"""Which tokens a bundle holds, where not all of the tokenizer's, and texts that have others.

The graph gives a token without a row the unknown token's, so whatever makes ids asks here first:
nothing else stands between such a text and a wrong vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtimes.arrays import Ids
from runtimes.bundle_files import VOCABULARY_FILE
from runtimes.choices import FileKind, Unknown
from runtimes.errors import AdaptrtError, InputError, shown
from runtimes.files import sha256
from runtimes.manifest import Manifest, require_as_built

if TYPE_CHECKING:
    from runtimes.text.tokens import TextTokenizer

Mask = NDArray[np.bool_]
_HINT = "copy the bundle again or build it anew"
_NAMED = 4  # tokens that a message shows
_AT_ONCE = 1024  # rows that are looked at together; all of a large corpus would be a copy of it


class VocabularyWarning(UserWarning):
    """Texts hold tokens that the bundle does not: embedded with the nearest that it holds."""


@dataclass(frozen=True)
class KeptTokens:
    """``mask`` ``[vocab]`` says of each token id whether it has a row; ``unknown`` what then."""

    mask: Mask
    unknown: Unknown

    def missing(self, ids: Ids) -> Ids:
        """The distinct ids without a row, ascending."""
        return np.unique(ids[~self.mask[ids]])

    def uncovered(self, rows: Sequence[Ids]) -> list[int]:
        """Which rows of ids hold one without a row."""
        found: list[int] = []
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            if not self.mask[np.concatenate(part)].all():
                found += [i for i, ids in enumerate(part, start) if not self.mask[ids].all()]
        return found


def holds(tokenizer: TextTokenizer, ids: Ids) -> bool:
    """Whether the bundle has a row for every token of a text."""
    return tokenizer.kept is None or bool(tokenizer.kept.mask[ids].all())


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Rows of ids as they are embedded.

    ``sent_on`` are those that a full bundle embeds, ``cut`` those that were segmented anew and
    became longer than the bundle takes; ``warning`` says how many were.
    """

    rows: list[Ids]
    sent_on: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()
    warning: str | None = None


def settle(
    tokenizer: TextTokenizer,
    rows: Sequence[Ids],
    texts: Sequence[str] | None,
    where: str = "text {}",
) -> Settled:
    """What becomes of ``rows`` with tokens that have no row, as the bundle's policy says.

    ``texts`` are those that they were made of, prefixes included; None where ids were given. Raises
    :class:`InputError`, which names the tokens and begins with ``where`` and the first text's
    number, where they are refused.
    """
    kept, found = tokenizer.kept, list(rows)
    away = kept.uncovered(found) if kept is not None else []
    if kept is None or not away:
        return Settled(rows=found)
    if kept.unknown is Unknown.FALLBACK:
        return Settled(rows=found, sent_on=tuple(away))
    if kept.unknown is Unknown.ERROR or texts is None:
        raise InputError(refusal(tokenizer, where.format(away[0]), found[away[0]], len(away)))
    anew = dict(zip(away, _segmented(tokenizer, [texts[i] for i in away]), strict=True))
    before = np.concatenate([found[i] for i in away])
    after = np.concatenate(list(anew.values()))
    unknown = [int((ids == tokenizer.unknown_id).sum()) for ids in (before, after)]
    return Settled(
        rows=[anew.get(index, ids) for index, ids in enumerate(found)],
        sent_on=(),
        cut=tuple(index for index, ids in anew.items() if len(ids) > tokenizer.max_tokens),
        warning=f"vocabulary: {len(away)} of {len(found)} texts hold tokens that the bundle does "
        f"not; segmented anew into those it holds: {len(after)} tokens instead of {len(before)}, "
        f"of which {unknown[1]} are unknown instead of {unknown[0]}",
    )


def _segmented(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[Ids]:
    rows = tokenizer.restricted.tokenize(texts)
    if tokenizer.kept is not None and tokenizer.kept.uncovered(rows):
        raise AdaptrtError(
            f"{tokenizer.path}: restricted to the tokens that the bundle holds, it still gives "
            "others; load with unknown='error'"
        )
    return rows


def refusal(tokenizer: TextTokenizer, where: str, ids: Ids, count: int = 1) -> str:
    """What is said of the first of ``count`` texts that hold tokens without a row."""
    kept = tokenizer.kept
    if kept is None:
        raise ValueError("every token has a row")
    missing = kept.missing(ids)
    names = ", ".join(shown(tokenizer.token(int(i)), 40) for i in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    others = f", as have {count - 1} texts more" if count > 1 else ""
    return (
        f"{where}: has the tokens {names}{more}, which this bundle does not hold (it has "
        f"{int(kept.mask.sum())} of {len(kept.mask)}){others}; embed it with a full bundle, or "
        "load this one with unknown='fallback' or 'replace'"
    )


def read_kept(
    folder: Path, manifest: Manifest, unknown: Unknown | None = None
) -> KeptTokens | None:
    """The tokens that a bundle holds; None where it holds all.

    ``unknown`` takes the place of the bundle's own policy. Raises :class:`InputError` for a map
    that does not fit the bundle's tokenizer.
    """
    record = manifest.vocabulary
    if record is None:
        if unknown is not None:
            raise InputError(
                f"unknown: got {shown(str(unknown))}, but {folder} holds every token; leave it out"
            )
        return None
    mask = read_mask(require_as_built(folder, manifest.artifact(FileKind.VOCABULARY)), record.of)
    if (rows := int(mask.sum())) != record.rows:
        raise InputError(
            f"{folder / VOCABULARY_FILE}: keeps {rows} tokens, expected {record.rows}; {_HINT}"
        )
    return KeptTokens(mask, record.unknown if unknown is None else unknown)


def require_own_tokenizer(folder: Path, manifest: Manifest) -> None:
    """Raise :class:`InputError` where the bundle's map was made for another tokenizer."""
    record, tokenizer = manifest.vocabulary, folder / manifest.artifact(FileKind.TOKENIZER).path
    if record is not None and sha256(tokenizer) != record.tokenizer_sha256:
        raise InputError(
            f"{tokenizer}: is not the tokenizer that {VOCABULARY_FILE} was made for, so its ids "
            f"would name other tokens' rows; {_HINT}"
        )


def write_mask(path: Path, mask: Mask) -> None:
    """A bit for each token id, eight to a byte, the first in the highest."""
    np.save(path, np.packbits(mask))


def read_mask(path: Path, count: int) -> Mask:
    """The bits of ``count`` token ids; :class:`InputError` where the file holds others."""
    try:
        packed = np.load(path, allow_pickle=False)
    except Exception as error:  # its header goes through Python's own parsers
        raise InputError(f"{path}: not an array of bits; {_HINT}") from error
    size = -(-count // 8)
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.shape != (size,):
        got = f"{getattr(packed, 'dtype', '?')} {list(getattr(packed, 'shape', ()))}"
        raise InputError(
            f"{path}: holds {got}, expected uint8 [{size}], a bit for each of {count} tokens; "
            f"{_HINT}"
        )
    bits = np.unpackbits(packed).astype(bool)
    if bits[count:].any():
        raise InputError(f"{path}: keeps tokens beyond the {count} there are; {_HINT}")
    return bits[:count]
