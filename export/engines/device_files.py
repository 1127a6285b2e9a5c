"""What a bundle for TensorRT 10 takes along to the device where its engine is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtimes.bundle_files import DEVICE_FILES

_SOURCE = Path(__file__).with_name("device")


def write_device_files(folder: Path) -> None:
    """Put the build script and its instructions into a bundle."""
    for name in DEVICE_FILES:
        shutil.copyfile(_SOURCE / name, folder / name)
