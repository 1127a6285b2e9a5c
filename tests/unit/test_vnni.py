"""CPUs without VNNI: told, and safe."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from runtimes.executors.vnni import SlowInt8Warning, has_vnni, warn_without_vnni

OLD = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512f\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(OLD)
    return path


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_one_flag_is_enough(cpuinfo: Path, flag: str) -> None:
    assert has_vnni(cpuinfo, "x86_64") is False
    cpuinfo.write_text(OLD.replace("avx2", f"avx2 {flag}"))
    assert has_vnni(cpuinfo, "x86_64") is True


def test_other_machines_need_none(cpuinfo: Path) -> None:
    assert has_vnni(cpuinfo, "aarch64") is True


def test_unknown_is_not_warned_about(tmp_path: Path) -> None:
    assert has_vnni(tmp_path / "absent", "x86_64") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_without_vnni(tmp_path / "absent", "x86_64")


def test_old_cpu_is_warned_about(cpuinfo: Path) -> None:
    with pytest.warns(SlowInt8Warning, match="no VNNI"):
        warn_without_vnni(cpuinfo, "x86_64")
