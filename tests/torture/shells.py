"""What shells do to commands: closed streams, limits, locales, names of files."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.torture.conditions import NEVER, Place

_CLOSED = (
    "<&-",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    ">/dev/full 2>&1",
)
_NAMES = (
    "with space",
    "new\nline",
    "-dash",
    "'quote\"",
    "ünïcode 東京",
    "$(touch x)",
    "*",
    "~",
    "%s%n",
)
_LONG = ("n" * 100, "n" * 200, "n" * 240, "n" * 255, "n" * 300)


def streams(place: Place, count: int) -> None:
    """Closed or full. What cannot be said is not, the exit code stays documented."""
    for words in _CLOSED:
        out, silent = place.out("streams"), "2>" in words
        shell = ("bash", "-c", f'exec "$@" {words}', "bash")
        for arguments in (place.encode(), place.verify(), place.embed(out / "embedded")):
            place.attempt(f"streams {words}", arguments, prefix=shell, silent=silent)
    shell = ("bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash")
    place.attempt("no streams", place.engine(out), prefix=shell, silent=True)


def limits(place: Place, count: int) -> None:
    """Of memory, open files, file sizes and stacks, drawn by seed.

    Below 250 MB of addresses and 6 files Python and NumPy do not load; they say so themselves.
    """
    for number in range(count):
        out = place.out("limits")
        for name, low, high in (
            ("AS", 8.4, 10.2),
            ("NOFILE", 0.8, 2.0),
            ("FSIZE", 2.0, 6.5),
            ("STACK", 5.0, 7.0),
        ):
            value = int(10 ** place.random.uniform(low, high))
            commands = place.commands(out)
            arguments = commands[(number + 1) % len(commands)]
            place.attempt(
                f"RLIMIT_{name} {value}",
                arguments,
                expected=NEVER,
                preexec_fn=_limit(getattr(resource, f"RLIMIT_{name}"), value),
            )


def _limit(kind: int, value: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(kind, (value, value))

    return limit


def locales(place: Place, count: int) -> None:
    """Those without UTF-8, and names that are none."""
    raw = os.fsdecode(b"caf\xe9")
    for env in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}):
        out = place.out(raw)
        for arguments in place.commands(out):
            place.attempt(f"{env}, a name that is no UTF-8", arguments, env=place.env | env)


def names(place: Place, count: int) -> None:
    """Spaces, line breaks, what shells would expand, and more characters than a name may have."""
    for number, name in enumerate((*_NAMES, *_LONG)):
        place.out("names")
        out = place.folder / "out" / "names" / name
        for arguments in place.commands(out)[number % 3 != 0 :]:  # a third are built too
            if len(name) <= 255 and arguments[0] == "encode":
                out.mkdir(exist_ok=True)
            place.attempt(f"OUT {name[:20]!r}, {len(name)} characters", arguments)
        if len(name) <= 255 and out.is_dir():
            shutil.copytree(place.bundles[0], out / "b")
            place.attempt(f"BUNDLE in {name[:20]!r}", place.encode(bundle=out / "b"), expected=(0,))


def oddities(place: Place, count: int) -> None:
    """A folder that is gone, no permission bits, variables that libraries read."""
    for case, words in {
        "the working folder is gone": 'd=$(mktemp -d); cd "$d"; rmdir "$d"; exec "$@"',
        "umask 777": 'umask 777; exec "$@"',
        "umask 0": 'umask 0; exec "$@"',
        "OMP_NUM_THREADS": 'export OMP_NUM_THREADS=many; exec "$@"',
        "PYTHONOPTIMIZE": 'export PYTHONOPTIMIZE=2; exec "$@"',
        "no PATH": 'unset PATH; exec "$@"',
        "ignored signals": 'trap "" INT TERM PIPE; exec "$@"',
    }.items():
        out = place.out("odd")
        env = place.env | {"PYTHONPATH": str(Path(__file__).parents[2])}
        prefix = ("/bin/bash", "-c", words, "bash")
        for arguments in (place.encode("--out", out / "v.npy"), place.verify()):
            place.attempt(case, arguments, prefix=prefix, env=env)
        if case in ("the working folder is gone", "umask 777"):
            place.attempt(case, place.engine(out), prefix=prefix, env=env)


CONDITIONS = (streams, limits, locales, names, oddities)
