"""What a bundle for TensorRT 10 takes along to the device where its engine is built and run."""

from __future__ import annotations

import shutil
from pathlib import Path

from export.engines.runtime_wheel import write_wheel
from runtimes.bundle_files import DEVICE_FILES

_SOURCE = Path(__file__).with_name("device")
_WORKSPACE = "WORKSPACE_MIB = 2048"  # as the script has it


def write_device_files(folder: Path, workspace_gib: float) -> None:
    """Put scripts, instructions and the light runtime into a bundle.

    ``workspace_gib`` becomes the script's default.
    """
    for name in DEVICE_FILES:
        shutil.copyfile(_SOURCE / name, folder / name)
    script = folder / "build_engine.py"
    text = script.read_text(encoding="utf-8")
    stated = f"WORKSPACE_MIB = {max(1, round(workspace_gib * 1024))}"
    script.write_text(text.replace(_WORKSPACE, stated), encoding="utf-8")
    write_wheel(folder)
