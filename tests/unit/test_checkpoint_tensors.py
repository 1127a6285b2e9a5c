"""Reading safetensors: exact values, and a refusal that names file and tensor for anything else."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from export.checkpoint.tensors import SafetensorFiles
from runtimes.errors import InputError

VALUES = np.array([[1.5, -2.25, 3.0], [0.0, 1e-3, 65504.0]], np.float32)


def saved(folder: Path, name: str = "model.safetensors", **tensors: Any) -> Path:
    save_file(tensors or {"w": VALUES}, folder / name)
    return folder / name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_sixteen_and_thirty_two_bit_floats_are_read_exactly(tmp_path: Path, dtype: Any) -> None:
    saved(tmp_path, w=VALUES.astype(dtype))
    files = SafetensorFiles(tmp_path, "model")
    assert files.shape("w") == (2, 3)
    value = files.read("w")
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, VALUES.astype(dtype).astype(np.float32))


def test_rows_and_entries_are_those_of_the_whole(tmp_path: Path) -> None:
    saved(tmp_path)
    files = SafetensorFiles(tmp_path, "model")
    np.testing.assert_array_equal(files.read("w", slice(1, 2)), VALUES[1:2])
    np.testing.assert_array_equal(files.read("w", 1), VALUES[1])


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int8, np.bool_])
def test_other_element_types_are_refused_by_name(tmp_path: Path, dtype: Any) -> None:
    path = saved(tmp_path, w=np.ones((2, 2), dtype))
    with pytest.raises(InputError, match=r"w is \w+, expected one of .*BF16") as caught:
        SafetensorFiles(tmp_path, "model").shape("w")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_non_finite_value_is_refused_by_name(tmp_path: Path, bad: float, dtype: Any) -> None:
    values = VALUES.copy()
    values[1, 2] = bad
    path = saved(tmp_path, w=values.astype(dtype))
    with pytest.raises(InputError, match="w holds NaN or infinity") as caught:
        SafetensorFiles(tmp_path, "model").read("w")
    assert str(path) in str(caught.value)


def truncated(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def oversized_header(path: Path, _: int) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def overlapping_offsets(path: Path, _: int) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


@pytest.mark.parametrize(
    ("break_file", "size"),
    [
        (truncated, 0),
        (truncated, 5),
        (truncated, 40),
        (truncated, -1),
        (oversized_header, 0),
        (overlapping_offsets, 0),
    ],
)
def test_truncated_or_forged_file_is_refused_when_opened(
    tmp_path: Path, break_file: Any, size: int
) -> None:
    path = saved(tmp_path)
    break_file(path, size)
    with pytest.raises(InputError, match="not a complete safetensors file") as caught:
        SafetensorFiles(tmp_path, "model")
    assert str(path) in str(caught.value)


def test_pickle_files_are_named_and_never_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickle files are never read"):
        SafetensorFiles(tmp_path, "model")


def test_empty_folder_names_the_file_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        SafetensorFiles(tmp_path, "model")


def write_index(folder: Path, weight_map: Any) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    saved(tmp_path, "model-1.safetensors", a=VALUES)
    second = saved(tmp_path, "model-2.safetensors", b=VALUES + 1)
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    files = SafetensorFiles(tmp_path, "model")
    assert files.names == {"a", "b"}
    assert files.path("b") == second
    np.testing.assert_array_equal(files.read("b"), VALUES + 1)


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "x.bin", 7, None],
)
def test_shard_outside_the_folder_is_refused(tmp_path: Path, shard: Any) -> None:
    inside = tmp_path / "checkpoint"
    (inside / "sub").mkdir(parents=True)
    saved(tmp_path, "x.safetensors")
    saved(inside / "sub", "x.safetensors")
    (inside / "x.bin").write_bytes(b"")
    write_index(inside, {"w": shard})
    with pytest.raises(InputError, match="is not the plain name of a safetensors file") as caught:
        SafetensorFiles(inside, "model")
    assert repr(str(shard)) in str(caught.value)


@pytest.mark.parametrize("weight_map", [{}, None, ["model-1.safetensors"], "model-1.safetensors"])
def test_index_without_a_usable_map_is_refused(tmp_path: Path, weight_map: Any) -> None:
    saved(tmp_path, "model-1.safetensors")
    write_index(tmp_path, weight_map)
    with pytest.raises(InputError, match=r"index\.json: .*weight_map"):
        SafetensorFiles(tmp_path, "model")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, {"w": "model-9.safetensors"})
    with pytest.raises(InputError, match=r"model-9\.safetensors: no such file, but .* names it"):
        SafetensorFiles(tmp_path, "model")


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors"):
        saved(tmp_path, name)
    write_index(tmp_path, {"w": "model-1.safetensors", "v": "model-2.safetensors"})
    with pytest.raises(InputError, match="tensor w stands in two shards"):
        SafetensorFiles(tmp_path, "model")
