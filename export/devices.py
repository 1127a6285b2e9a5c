"""Jetsons by name: what they are, and the options of a build for one that are not given.

Sizes of memory are those of NVIDIA's data sheets of the modules (Orin Nano 4 and 8 GB, Orin NX 8
and 16, AGX Orin 32 and 64, Thor T5000 128); CPU and GPU share it. Orins are sm87; Thor is sm110, as
CUDA 13 calls what was sm101 before. JetPack 6.2 has CUDA 12.6 and TensorRT 10.3, JetPack 7.0 CUDA
13.0 and TensorRT 10.13. The system and a desktop are said to take 1.5 to 2 GB of an 8 GB Orin,
which is where the shares that are free come from. Nothing of this was measured on a device.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtimes.errors import InputError, shown

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Device:
    """One row: what the device is, and the options of a build for it that are not given.

    ``memory`` in GB, of which ``free`` is the share that a program can have. ``workspace`` (GiB) is
    the builder's on the device.
    """

    name: str
    label: str
    sm: str
    memory: float
    free: float
    jetpack: str
    tensorrt: str
    max_batch: int
    max_tokens: int
    profiles: str
    workspace: float

    @property
    def available(self) -> float:
        """Bytes that a program can have."""
        return self.memory * self.free * GB


def _orin(
    name: str,
    label: str,
    memory: float,
    free: float,
    limits: tuple[int, int],
    workspace: float,
    profiles: str = "short,long",
) -> Device:
    return Device(
        name=name,
        label=label,
        sm="sm87",
        memory=memory,
        free=free,
        jetpack="6.2",
        tensorrt="10.3",
        max_batch=limits[0],
        max_tokens=limits[1],
        profiles=profiles,
        workspace=workspace,
    )


# The plain name is the larger module of its kind, which the developer kit has.
_ROWS = (
    _orin("orin-nano", "Jetson Orin Nano 8GB", 8, 0.7, (8, 2048), 1.0),
    _orin("orin-nano-4gb", "Jetson Orin Nano 4GB", 4, 0.5, (4, 512), 0.5, ""),
    _orin("orin-nx", "Jetson Orin NX 16GB", 16, 0.8, (16, 8192), 2.0),
    _orin("orin-nx-8gb", "Jetson Orin NX 8GB", 8, 0.7, (8, 2048), 1.0),
    _orin("agx-orin", "Jetson AGX Orin 64GB", 64, 0.9, (32, 8192), 8.0),
    _orin("agx-orin-32gb", "Jetson AGX Orin 32GB", 32, 0.9, (32, 8192), 4.0),
    Device(
        name="thor",
        label="Jetson Thor T5000 128GB",
        sm="sm110",
        memory=128,
        free=0.9,
        jetpack="7.0",
        tensorrt="10.13",
        max_batch=32,
        max_tokens=8192,
        profiles="short,long",
        workspace=8.0,
    ),
)
DEVICES: dict[str, Device] = {row.name: row for row in _ROWS}


def find_device(name: str) -> Device:
    """The row of a name; :class:`InputError` for any other."""
    if name not in DEVICES:
        raise InputError(f"DEVICE: got {shown(name)}, expected one of {', '.join(DEVICES)}")
    return DEVICES[name]
