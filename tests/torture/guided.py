"""Readers under libFuzzer, which looks for inputs that reach new lines of this project's Python.

``pip install atheris`` first (Python 3.11, Linux); it is no part of the locks, because nothing else
needs it. ``python -m tests.torture.guided READER FOLDER -max_total_time=60`` keeps its corpus in
FOLDER and ends with an error at the first input for which a reader raises what would be an internal
error of the command.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["runtimes", "export.checkpoint", "calibration"]):
    from calibration.table import read_calibration
    from export.checkpoint.config import read_config
    from export.checkpoint.peft_config import read_lora_settings
    from export.checkpoint.tensors import SafetensorFiles
    from runtimes.fingerprint import BundleFingerprints
    from runtimes.manifest import read_manifest
    from runtimes.text.vocabulary import read_mask

from export.console.failures import INTERNAL, explain
from export.gate.parity_file import read_parity


def _safetensors(path: Path) -> None:
    files = SafetensorFiles(path.parent, "model")
    for name in sorted(files.names)[:4]:
        files.shape(name)
        files.read(name, slice(0, 2))


# A reader, and the name of the file that it reads.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest": ("manifest.json", lambda path: read_manifest(path.parent, files=False)),
    "config": ("config.json", lambda path: read_config(path.parent)),
    "lora": ("adapter_config.json", lambda path: read_lora_settings(path.parent)),
    "safetensors": ("model.safetensors", _safetensors),
    "calibration": ("calibration.json", read_calibration),
    "parity": ("parity.json", read_parity),
    "fingerprint": ("fingerprint.json", BundleFingerprints.read),
    "vocabulary": ("vocabulary.npy", lambda path: read_mask(path, 16000)),
}


def main() -> None:
    """libFuzzer's own options follow the reader's name."""
    name, read = READERS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name

        def one(content: bytes) -> None:
            path.write_bytes(content)
            try:
                read(path)
            except Exception as error:
                if explain(error).exit_code == INTERNAL:
                    raise

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
