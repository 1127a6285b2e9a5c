"""The folder of one case, all that its process may write to, and what changed in it."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

Listing = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """``root`` holds the mutated ``input``, ``out`` for results, and folders that stay empty:
    the process's working directory, its home and its temporary files.
    """

    root: Path

    @classmethod
    def fresh(cls, root: Path) -> Place:
        """Empty, whatever was there."""
        clear(root)
        place = cls(root)
        for folder in (place.input, place.out, *place.idle.values(), place.streams):
            folder.mkdir(parents=True)
        return place

    @property
    def input(self) -> Path:
        """What the case was given; nothing may change it."""
        return self.root / "input"

    @property
    def out(self) -> Path:
        """Where results go."""
        return self.root / "out"

    @property
    def idle(self) -> dict[str, Path]:
        """Folders that end as they began, by what they are."""
        return {name: self.root / name for name in ("cwd", "home", "tmp")}

    @property
    def streams(self) -> Path:
        """Where standard output and error go."""
        return self.root / "streams"


def listing(folder: Path) -> Listing:
    """Every path below ``folder``: of files and links what tells that they were touched."""
    found: Listing = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)  # noqa: PTH118 - no name is changed
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            touched = (status.st_size, status.st_mtime_ns, status.st_ino)
            key = os.path.relpath(path, folder)
            found[key] = (kind,) if stat.S_ISDIR(kind) else (kind, *touched)
    return found


def differences(before: Listing, after: Listing) -> list[str]:
    """What was made, removed or changed, in words."""
    lines = [f"{name} appeared" for name in sorted(after.keys() - before.keys())]
    lines += [f"{name} vanished" for name in sorted(before.keys() - after.keys())]
    both = before.keys() & after.keys()
    return lines + [f"{name} changed" for name in sorted(both) if before[name] != after[name]]


def linked(source: Path, target: Path) -> Path:
    """A copy of a folder made of hard links: whoever writes into a file of it is seen."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def put(path: Path, content: bytes) -> None:
    """A new file in the place of a linked one, whose other name keeps its bytes."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def clear(folder: Path) -> None:
    """Remove a folder, also one whose modes were changed."""
    if folder.exists():
        shutil.rmtree(folder)
