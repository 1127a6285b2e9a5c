"""What a bundle for TensorRT 10 takes along to the device where its engine is built and run."""

from __future__ import annotations

import shutil
from pathlib import Path

from export.engines.runtime_wheel import write_wheel
from runtimes.bundle_files import DEVICE_FILES

_SOURCE = Path(__file__).with_name("device")


def write_device_files(folder: Path) -> None:
    """Put scripts, instructions and the light runtime into a bundle."""
    for name in DEVICE_FILES:
        shutil.copyfile(_SOURCE / name, folder / name)
    write_wheel(folder)
