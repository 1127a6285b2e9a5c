"""Folders that appear whole: staged beside their place, flushed, then put there in one step.

Beside a place ``x`` a build owns names with a token of its own: the folder it writes
(``.x.staging-…``), a lock that it holds while it lives (``.x.lock-…``) and, where the file system
cannot exchange two folders, what stood at ``x`` between two renames (``.x.former-…``). A lock that
can be taken is a dead build's, and the next build of ``x`` clears what that one left. Process ids
could not tell: containers that share a volume have the same ones. One more lock, ``.x.lock-0``,
is held for the moments in which a build looks at ``x`` and changes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from export.bundle.exchange import exchange
from runtimes.errors import AdaptrtError, InputError
from runtimes.files import flush
from runtimes.signals import Hold, held_back

Check = Callable[[Path], object]
_TURN = "0"  # a token that no build has
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # the disk's fault, not that of the place


@contextmanager
def staging(final: Path, may_replace: Check, finished: Check) -> Iterator[Path]:
    """A folder beside ``final`` to write into; published when the block ends without an error.

    ``may_replace(final)`` raises where what stands there must stay, now and again before the last
    step; ``finished(folder)`` where what was written is not complete. Whatever ends the block
    early, what stood at ``final`` stays as it was.
    """
    final = final.absolute()
    parents = [p for p in (final.parent, *final.parent.parents) if not p.exists()]
    with held_back() as hold, _removed_if_empty(parents):
        claim = _begin(final, may_replace, hold)
        try:
            with hold.allowed():
                yield claim.folder
                for path in (*claim.folder.rglob("*"), claim.folder):
                    flush(path)
                finished(claim.folder)
            with _turn(final, hold):
                may_replace(final)
                claim.publish()
            for parent in {final.parent, *(p.parent for p in parents)}:
                flush(parent)
        finally:
            claim.release()


@contextmanager
def _removed_if_empty(parents: list[Path]) -> Iterator[None]:
    """Folders that this build makes, inner ones first, unless something is there after it."""
    try:
        yield
    finally:
        for parent in parents:
            with suppress(OSError):
                parent.rmdir()


@dataclass(frozen=True)
class _Claim:
    """Names beside ``final`` that are one build's as long as ``handle``, its lock, is open."""

    final: Path
    token: str
    handle: int

    @classmethod
    def take(cls, final: Path, token: str) -> Self | None:
        """None where another process holds the lock, or has just cleared it away."""
        lock = _beside(final, "lock", token)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return cls(final, token, handle)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
        return None

    @property
    def folder(self) -> Path:
        """The folder that is written into."""
        return _beside(self.final, "staging", self.token)

    @property
    def former(self) -> Path:
        """What stood at ``final``, between two renames."""
        return _beside(self.final, "former", self.token)

    def publish(self) -> None:
        """Put the folder in its place."""
        if not os.path.lexists(self.final):
            self.folder.rename(self.final)
        elif not exchange(self.folder, self.final):
            self.final.rename(self.former)
            try:
                self.folder.rename(self.final)
            finally:
                self.restore()
            # As after an exchange. Under its own name :meth:`release`, outside the turn, would
            # restore it while another build is between these renames.
            self.former.rename(self.folder)

    def restore(self) -> None:
        """What stood at ``final`` returns if nothing took its place."""
        if self.former.exists() and not os.path.lexists(self.final):
            self.former.rename(self.final)

    def release(self) -> None:
        """Clear away what is left, the lock last."""
        self.restore()
        for path in (self.folder, self.former):
            shutil.rmtree(path, ignore_errors=True)
        _beside(self.final, "lock", self.token).unlink(missing_ok=True)
        os.close(self.handle)


def _beside(final: Path, kind: str, token: str) -> Path:
    return final.with_name(f".{final.name}.{kind}-{token}")


@contextmanager
def _turn(final: Path, hold: Hold) -> Iterator[None]:
    """One build at a time; the others wait, for moments, in which they can be told to end."""
    while (turn := _Claim.take(final, _TURN)) is None:
        with hold.allowed():
            time.sleep(0.01)
    try:
        yield
    finally:
        turn.release()


def _begin(final: Path, may_replace: Check, hold: Hold) -> _Claim:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _turn(final, hold):
            _clear_dead(final)
            may_replace(final)
            while (claim := _Claim.take(final, secrets.token_hex(8))) is None:
                pass  # nobody else's: the names are random
            claim.folder.mkdir()
    except OSError as error:
        kind = AdaptrtError if error.errno in _FULL else InputError
        raise kind(f"OUT: cannot write below {final.parent} ({error})") from error
    return claim


def _clear_dead(final: Path) -> None:
    """Clear away what dead builds left; older versions' leftovers have a process id for a token."""
    name = re.compile(rf"\.{re.escape(final.name)}\.(?:lock|staging|former)-([0-9a-f]+)")
    for token in {m[1] for p in final.parent.iterdir() if (m := name.fullmatch(p.name))}:
        with suppress(OSError):  # another user's: left to them
            if (claim := _Claim.take(final, token)) is not None:
                claim.release()
