"""The GPU, asked of the driver itself: no package is needed."""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True)
class Gpu:
    """``cuda`` is the newest CUDA version that the driver knows; ``memory_gib`` all of it."""

    name: str
    sm: str
    cuda: str
    memory_gib: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_gpu() -> Gpu | str:
    """The first GPU, or one line on what is missing."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 is not there)"
    if (code := cuda.cuInit(0)) != 0:
        return f"the NVIDIA driver does not start (cuInit gives error {code})"
    count, device, number = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if count.value == 0:
        return "no NVIDIA GPU is visible to this process"
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    name, memory = ctypes.create_string_buffer(128), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, 128, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return Gpu(name.value.decode(), "sm" + "".join(capability), version, memory.value / 2**30)
