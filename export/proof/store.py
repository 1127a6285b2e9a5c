"""What was computed already: an array file for each step, so that a stopped proof goes on."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.files import replacing

Array = NDArray[Any]
_ABOUT = "about"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a step computed, what ran it, and how long that took."""

    arrays: Mapping[str, Array]
    by: str
    seconds: float


class Store:
    """The finished steps of one proof, each in a file that appears whole."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """``folder`` belongs to one bundle, checkpoint and set of options; ``fresh`` empties it."""
        self._folder = folder
        if fresh and folder.is_dir():
            shutil.rmtree(folder)

    @property
    def begun(self) -> str:
        """The day of the first step, as ISO 8601 has it."""
        path = self._folder / "begun.json"
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as staged:
                staged.write_text(json.dumps({"date": date.today().isoformat()}), encoding="utf-8")
        return str(json.loads(path.read_text(encoding="utf-8"))["date"])

    def load(self, name: str) -> Kept | None:
        """A step's result; None where it was not finished, or its file is damaged."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            about = json.loads(str(arrays.pop(_ABOUT)))
            return Kept(arrays=arrays, by=str(about["by"]), seconds=float(about["seconds"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, name: str, kept: Kept) -> None:
        """Keep a step's result."""
        self._folder.mkdir(parents=True, exist_ok=True)
        about = json.dumps({"by": kept.by, "seconds": kept.seconds})
        with replacing(self._path(name)) as staged, staged.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{**kept.arrays, _ABOUT: np.array(about)})

    def _path(self, name: str) -> Path:
        return self._folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.npz"
