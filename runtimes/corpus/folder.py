"""The output folder: who works in it, what the job is, which parts are finished.

``_adaptrt/`` holds ``job.json`` (what was asked for, of which files), ``plan.jsonl`` (the splits),
``journal.jsonl`` (a line for each finished part, in the order in which they were finished) and at
the end ``parts.jsonl`` (the same in the order of the splits) and ``skipped.jsonl``.
Whatever is killed when, a folder is one of three: not begun, begun and to be gone on with, done.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from runtimes.corpus.parts import skipped_lines
from runtimes.corpus.records import STATE, File, Record, Split
from runtimes.errors import InputError, shown
from runtimes.files import flush, replacing
from runtimes.typed_json import read_object

FORMAT = 1
_JOB, _PLAN, _JOURNAL, _LOCK = "job.json", "plan.jsonl", "journal.jsonl", "lock"
PARTS, SKIPPED = "parts.jsonl", "skipped.jsonl"
_NEW = "name another folder with --out"
_AT_MOST = 3  # differences in one message


class Folder:
    """An output folder, which one run at a time has."""

    def __init__(self, out: Path) -> None:
        self.out, self.state = out, out / STATE

    @property
    def begun(self) -> bool:
        """Whether a job began here."""
        return (self.state / _JOB).is_file()

    @property
    def done(self) -> bool:
        """Whether every part is there."""
        return (self.state / PARTS).is_file()

    @property
    def has_parts(self) -> bool:
        """Whether a job came to anything here: one without a part binds nobody."""
        return self.done or any(path.name != STATE for path in self.out.iterdir())

    def check_usable(self) -> None:
        """:class:`InputError` where something else than a job is in the folder."""
        if not self.out.exists():
            return
        if not self.out.is_dir():
            raise InputError(f"--out: {self.out} is no folder; {_NEW}")
        foreign = next((p.name for p in self.out.iterdir() if p.name != STATE), None)
        if not self.begun and foreign is not None:
            raise InputError(
                f"--out: {self.out} has {shown(foreign)}, and no job began there; {_NEW}"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else's while the block runs; the lock ends with the process, however it ends.

        What bad input ended before there was a part leaves nothing behind.
        """
        made = not self.out.exists()
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"--out: another run works in {self.out}; wait for it") from error
            try:
                yield
            except InputError:
                if not self.has_parts:
                    shutil.rmtree(self.out if made else self.state, ignore_errors=True)
                raise

    def begin(self, job: Mapping[str, object], splits: Sequence[Split]) -> None:
        """Keep the job and its plan; the former last, for a folder with one has both."""
        (self.state / _JOURNAL).unlink(missing_ok=True)
        with replacing(self.state / _PLAN) as plan:
            _write_lines(plan, (msgspec.json.encode(split) for split in splits))
        with replacing(self.state / _JOB) as path:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(job), indent=1) + b"\n")

    def read_job(self) -> dict[str, Any]:
        """What :meth:`begin` kept."""
        return read_object(self.state / _JOB, _NEW)

    def read_plan(self) -> list[Split]:
        """What :meth:`begin` kept."""
        with (self.state / _PLAN).open("rb") as stream:
            return [msgspec.json.decode(line, type=Split) for line in stream]

    def clear_staged(self) -> None:
        """Remove what a killed run left half written."""
        staged = self.state / "staged"
        staged.mkdir(exist_ok=True)
        for path in staged.iterdir():
            path.unlink()

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The journal, to read and to add to."""
        path = self.state / _JOURNAL
        with path.open("a+b") as stream:
            yield Journal(stream)

    def read_parts(self) -> list[Record]:
        """What :meth:`finish` kept; none where it did not come to that."""
        if not self.done:
            return []
        with (self.state / PARTS).open("rb") as stream:
            return [msgspec.json.decode(line, type=Record) for line in stream]

    def finish(self, records: Iterable[Record]) -> None:
        """The lists that say that the job is done; the journal has served."""
        ordered = sorted(records, key=lambda record: record.split)
        skipped = [one for record in ordered for one in record.skipped]
        with replacing(self.state / SKIPPED) as path:
            _write_lines(path, skipped_lines(skipped))
        with replacing(self.state / PARTS) as path:
            _write_lines(path, map(msgspec.json.encode, ordered))
        self.tidy()

    def tidy(self) -> None:
        """Remove what only a job that goes on needs."""
        (self.state / _JOURNAL).unlink(missing_ok=True)
        for half in self.state.glob(".*"):  # of a list whose writing was killed
            half.unlink()
        staged = self.state / "staged"
        if staged.is_dir():
            self.clear_staged()
            staged.rmdir()
        flush(self.state)


class Journal:
    """Finished parts, one line each; a line that a kill cut short does not count."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        stream.seek(0)
        whole = 0
        self.records: dict[int, Record] = {}
        for line in stream:
            try:
                record = msgspec.json.decode(line, type=Record)
            except msgspec.DecodeError:
                break
            if not line.endswith(b"\n"):
                break
            self.records[record.split] = record
            whole += len(line)
        stream.truncate(whole)

    def add(self, record: Record) -> None:
        """It is on the disk when this returns."""
        self._stream.write(msgspec.json.encode(record) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.records[record.split] = record


def described(identity: Mapping[str, object], files: Iterable[File]) -> dict[str, Any]:
    """What ``job.json`` holds beside the fingerprint: by it a job that goes on is compared."""
    listed = [{"path": f.path, "bytes": f.bytes, "modified": f.modified} for f in files]
    return {"format": FORMAT, **identity, "input": listed}


def require_same(former: Mapping[str, Any], wanted: Mapping[str, Any], out: Path) -> None:
    """:class:`InputError`, which says what differs, unless both are the same job."""
    found = [*_differences(former, wanted)]
    if found:
        more = f" and {len(found) - _AT_MOST} more" if len(found) > _AT_MOST else ""
        raise InputError(
            f"--out: {out} has another job's parts: {'; '.join(found[:_AT_MOST])}{more}. "
            f"Ask for the same again, or {_NEW}"
        )


def _differences(former: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in [*wanted, *(name for name in former if name not in wanted)]:
        if name == "input":
            yield from _changed_files(former.get(name) or [], wanted.get(name) or [])
        elif (was := former.get(name)) != (now := wanted.get(name)):
            if isinstance(was, dict) and isinstance(now, dict):
                yield from (f"{name}.{inner}" for inner in _differences(was, now))
            else:
                yield f"{name} was {shown(was)}, now {shown(now)}"


def _changed_files(former: Sequence[Any], wanted: Sequence[Any]) -> Iterator[str]:
    was = {file["path"]: file for file in former}
    now = {file["path"]: file for file in wanted}
    for path in sorted(was.keys() | now.keys()):
        if path not in now:
            yield f"input file {shown(path)} is gone"
        elif path not in was:
            yield f"input file {shown(path)} is new"
        elif was[path] != now[path]:
            size = was[path]["bytes"] != now[path]["bytes"]
            what = f"from {was[path]['bytes']} to {now[path]['bytes']} bytes" if size else "since"
            yield f"input file {shown(path)} changed {what}"


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as stream:
        for line in lines:
            stream.write(line + b"\n")
