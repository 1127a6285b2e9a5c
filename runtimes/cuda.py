"""Which GPU is present, asked of the driver through cuda-python."""

from __future__ import annotations

import importlib


def device_sm(index: int = 0) -> str | None:
    """The GPU's architecture as ``sm90``; None without cuda-python, a driver or a GPU."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        if driver.cuInit(0)[0] != 0:
            return None
    except (ImportError, RuntimeError):  # cuda-python raises RuntimeError without libcuda
        return None
    error, device = driver.cuDeviceGet(index)
    if error != 0:
        return None
    names = driver.CUdevice_attribute
    major, minor = (
        driver.cuDeviceGetAttribute(attribute, device)[1]
        for attribute in (
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return f"sm{major}{minor}"
