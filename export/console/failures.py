"""Whatever goes wrong, as one line and an exit code: the command's boundary.

Errors of this project say both themselves. Others are looked up by class, or by the library that
defines the class, so that no library has to be imported for it. What no row names is a mistake
of ours: an internal error, whose traceback is kept.
"""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from collections.abc import Iterator
from typing import NamedTuple

from export.console.termination import Terminated
from runtimes.errors import (
    AdaptrtError,
    GateError,
    IndexMismatchError,
    InputError,
    MissingError,
    shown,
)

INTERNAL, INTERRUPTED, CLOSED, TERMINATED = 5, 130, 141, 143
EXIT_CODES = {
    0: "done",
    AdaptrtError.exit_code: "a build step failed, or a disk, the memory or the network did",
    InputError.exit_code: "bad input: an option, text or bundle, a checkpoint or its download",
    GateError.exit_code: "a gate (parity, scores), a rule of the plan, verify or prove failed",
    MissingError.exit_code: "a GPU, a driver or a library is missing",
    INTERNAL: "internal error: a mistake in adaptrt",
    IndexMismatchError.exit_code: "a bundle and an index of vectors do not belong together",
    INTERRUPTED: "interrupted (Ctrl-C)",
    CLOSED: "the reader of the output went away, as with `head`",
    TERMINATED: "ended by SIGTERM, as with `docker stop`",
}
_LONGEST = 600  # characters of a library's own words
# PyTorch on a CPU says no more than the first; a thread's stack needs memory too.
_NO_MEMORY = ("can't allocate memory", "can't start new thread")


class Failure(NamedTuple):
    """What is printed after ``error: ``, and the exit code."""

    message: str
    exit_code: int


class Row(NamedTuple):
    """An exit code, what failed, and what to do."""

    exit_code: int
    what: str
    hint: str


_DAMAGED = "the file is damaged or of another kind; download or write it again"
_NETWORK = "check the network, or use files on this disk"
_UTF8 = "expected UTF-8; convert it, for example with iconv"
# By "module.Class" or by "library", the first part of the module's name.
FOREIGN = {
    "builtins.MemoryError": Row(
        1, "out of memory", "free some, or ask for less: fewer texts, MAX_BATCH, MAX_TOKENS"
    ),
    "builtins.RecursionError": Row(
        2, "nested too deeply to be read", "look for a file that is damaged or made to break this"
    ),
    "builtins.UnicodeDecodeError": Row(2, "not UTF-8", _UTF8),
    "builtins.UnicodeEncodeError": Row(2, "cannot be written as text", _UTF8),
    "builtins.ImportError": Row(
        4, "a library cannot be loaded", "install adaptrt again; pip check names what is wrong"
    ),
    "builtins.Warning": Row(1, "a warning that Python was told to make an error", "see python -W"),
    "builtins.ConnectionError": Row(1, "a connection broke", _NETWORK),
    "builtins.TimeoutError": Row(1, "nothing answered in time", _NETWORK),
    "json.decoder.JSONDecodeError": Row(2, "not valid JSON", _DAMAGED),
    "tomllib.TOMLDecodeError": Row(2, "not valid TOML", "correct the file"),
    "msgspec": Row(2, "a file does not hold what it should", _DAMAGED),
    "safetensors": Row(2, "not a usable safetensors file", _DAMAGED),
    "pyarrow": Row(2, "not a usable Parquet file", _DAMAGED),
    "google": Row(2, "not a usable ONNX or protobuf file", _DAMAGED),  # google.protobuf
    "onnx": Row(1, "ONNX refuses the graph", "adaptrt verify says whether the bundle is whole"),
    "onnxruntime": Row(1, "ONNX Runtime failed", "adaptrt verify says whether the bundle is whole"),
    "torch": Row(1, "PyTorch failed", "--debug shows where"),
    "subprocess": Row(1, "another program failed", "its own words are above"),
    "huggingface_hub": Row(2, "the hub does not give it", "check MODEL, REVISION and the network"),
    "httpx": Row(1, "the network failed", _NETWORK),
    "socket": Row(1, "the network failed", _NETWORK),
    "ssl": Row(1, "the network failed", _NETWORK),
    "urllib": Row(1, "the network failed", _NETWORK),
    "http": Row(1, "the network failed", _NETWORK),
    "tritonclient": Row(1, "the Triton server failed", "its log says more"),
    "grpc": Row(1, "the Triton server failed", "its log says more"),
}
_ELSEWHERE = "name another place, or make this one usable"
_FULL = "free some space, or name another place"
# What is at fault is a name or a place that was given; every other number is the machine's.
_GIVEN = {
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "its symbolic links run in circles",
    errno.EEXIST: _ELSEWHERE,
    errno.ENOTEMPTY: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
}
_MACHINE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no file as large",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "free memory",
    errno.EIO: "the disk is failing",
}


def explain(error: BaseException) -> Failure:
    """What to print for ``error``, not yet escaped, and the code to end with."""
    if interrupt := _interrupt(error):
        code = TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
        return Failure("interrupted; nothing unfinished was published", code)
    if isinstance(error, AdaptrtError):
        return Failure(str(error), error.exit_code)
    for name in () if _ours_is_missing(error) else _names(error):
        if row := FOREIGN.get(name):
            return Failure(f"{row.what}: {_words(error)}; {row.hint}", row.exit_code)
        if name == "builtins.OSError":
            return _explain_os_error(error)
    return Failure(f"internal error: {type(error).__name__}: {_words(error)}", INTERNAL)


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Ctrl-C or SIGTERM, also as the cause of another error.

    In the middle of an import it breaks the module: PyTorch's exporter then reports that a part of
    itself is missing.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _names(error: BaseException) -> Iterator[str]:
    """What a row may be called, the closest first."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
        yield "builtins.MemoryError"
    for cls in type(error).__mro__:
        yield f"{cls.__module__}.{cls.__qualname__}"
        yield cls.__module__.partition(".")[0]


def message_for(error: BaseException, *, debug: bool) -> Failure:
    """As :func:`explain`; an internal error's line also says where its traceback is.

    With ``debug`` every traceback goes to standard error instead.
    """
    message, code = explain(error)
    if debug:
        traceback.print_exception(error)
    elif code == INTERNAL:
        message += f"; {_keep_traceback(error)}"
    return Failure(message, code)


def _ours_is_missing(error: BaseException) -> bool:
    """An import of this project's own modules that fails is no missing library."""
    own = ("adaptrt", "calibration", "export", "runtimes")
    return isinstance(error, ImportError) and str(error.name).partition(".")[0] in own


def _explain_os_error(error: BaseException) -> Failure:
    number = getattr(error, "errno", None)
    if number is None:  # numpy: "4096 requested and 1024 written"
        return Failure(f"a file: {_words(error)}; is the disk full?", AdaptrtError.exit_code)
    names = [getattr(error, name, None) for name in ("filename", "filename2")]
    place = " to ".join(shown(name) for name in names if name is not None)
    reason = f"{place}: {os.strerror(number)}" if place else os.strerror(number)
    if number in _GIVEN:
        return Failure(f"{reason}; {_GIVEN[number]}", InputError.exit_code)
    hint = _MACHINE.get(number, "the operating system refused it")
    return Failure(f"{reason}; {hint}", AdaptrtError.exit_code)


def _words(error: BaseException) -> str:
    """The error's own words without line breaks, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _keep_traceback(error: BaseException) -> str:
    """Write the traceback into a file of this user's own; says where it is."""
    try:
        handle, name = tempfile.mkstemp(prefix="adaptrt-", suffix=".txt")  # mode 600
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            traceback.print_exception(error, file=stream)
    except OSError:
        return "please report it with what --debug prints"
    return f"please report it with the traceback in {name}"
