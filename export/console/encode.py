"""``adaptrt encode``'s two ends: where texts come from, and where vectors go."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from export.console.progress import log
from runtimes.arrays import Encoded
from runtimes.errors import AdaptrtError, InputError, one_line, shown
from runtimes.temporary import temporary_file
from runtimes.text.lines import parse_object, read_lines
from runtimes.text.tokens import MAX_BYTES, check_text

STANDARD_INPUT = Path("-")
Write = Callable[[Sequence[str], Encoded], None]


def read_texts(texts: Sequence[str], file: Path | None) -> list[str]:
    """The texts given, or a file's; without either, standard input's.

    A file holds a text per line, or where its name ends in ``.jsonl`` an object per line with
    ``text``. Raises :class:`InputError`, which names the line, for one that cannot be embedded:
    vectors line up with lines, so none is skipped.
    """
    if texts and file is not None:
        raise InputError("texts and --file: got both, expected one of them")
    if texts:
        return list(texts)
    if file is None or file == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError("standard input is closed; give texts or --file")
        if sys.stdin.isatty():
            log.info("reading texts from the keyboard, one per line; Ctrl-D ends")
        return _checked(read_lines(sys.stdin.buffer, "standard input"))
    try:
        with file.open("rb") as stream:
            return _checked(_file_texts(stream, file))
    except OSError as error:
        raise InputError(f"--file: cannot read {shown(str(file))} ({error.strerror})") from error


@contextmanager
def vector_output(out: Path | None) -> Iterator[Write]:
    """Writes the vectors: as JSON lines on standard output, or whole into a ``.npy`` file.

    Raises :class:`InputError` for an output that cannot be written, before the block begins
    where that can be known; a former file stays until the new one is complete.
    """
    if out is None:
        if sys.stdout is None:
            raise InputError("standard output is closed; name a file with --out")
        yield _write_json_lines
        return
    if out.suffix != ".npy":
        raise InputError(f"--out: got {shown(str(out))}, expected a name that ends in .npy")
    target = out.resolve()  # a link keeps pointing to the file
    if target.is_dir():
        raise InputError(f"--out: {shown(str(out))} is a folder, expected a file's name")
    with ExitStack() as stack:
        try:  # first: hours of work may lie between here and the vectors
            staged = stack.enter_context(temporary_file(target.parent, ".adaptrt-", ".npy"))
        except OSError as error:
            raise InputError(f"--out: cannot write {shown(str(out))} ({error.strerror})") from error
        yield partial(_place, staged, target, out)


def _place(staged: Path, target: Path, out: Path, texts: Sequence[str], vectors: Encoded) -> None:
    try:
        _save(staged, vectors)
        staged.replace(target)
    except OSError as error:  # numpy's says how much was written, not why
        reason = error.strerror or f"{error}; is the disk full?"
        raise AdaptrtError(f"--out: cannot write {shown(str(out))} ({reason})") from error


def _save(path: Path, vectors: Encoded) -> None:
    with path.open("wb") as stream:
        np.save(stream, vectors)
        stream.flush()
        os.fsync(stream.fileno())


def _write_json_lines(texts: Sequence[str], vectors: Encoded) -> None:
    """UTF-8, whatever the terminal's encoding: JSON has no other."""
    for text, vector in zip(texts, vectors, strict=True):
        line = {"text": text, "embedding": vector.tolist()}
        sys.stdout.buffer.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _file_texts(stream: BinaryIO, file: Path) -> Iterator[tuple[str, object]]:
    name = one_line(str(file))
    if file.suffix.lower() != ".jsonl":
        yield from read_lines(stream, name)
        return
    for place, line in read_lines(stream, name):
        entry = parse_object(line, place)
        if "text" not in entry:
            raise InputError(f'{place}: has no \'text\', expected {{"text": "..."}}')
        yield place, entry["text"]


def _checked(lines: Iterable[tuple[str, object]]) -> list[str]:
    texts = []
    for place, text in lines:
        check_text(text, place, MAX_BYTES)
        texts.append(str(text))
    return texts
