"""What is counted of other libraries' graphs, and how their table is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.bench.recipe_products import products
from tests.bench.recipe_rivals import ENVIRONMENTS, LIBRARIES, table_of, versions
from tests.bench.recipe_worker import EXACT_FILE, METHODS, ROWS_FILE, Row, cosines, read_rows

GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[n, 4] x, float[n, 4] y) => (float[n, 4] a, float[n, 4] b, float[n, 4] c)
<float s = {0.5}, int8 zero = {0}, int8[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
{
    q = QuantizeLinear(x, s, zero)
    xq = DequantizeLinear(q, s, zero)
    wq = DequantizeLinear(w, s, zero)
    wt = Transpose(wq)
    a = MatMul(xq, wt)
    b = MatMul(y, wq)
    yt = Transpose(y)
    d = MatMul(yt, y)
    c = MatMul(y, d)
}
"""


def test_products_count_by_both_operands(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), path)
    assert products(path) == {"all": 4, "int8": 1, "stored": 1}


def test_texts_come_back_as_they_were_written_and_padding_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / ROWS_FILE, judged=np.arange(5), judged_lengths=np.array([2, 3]))
    rows = read_rows(tmp_path, "judged")
    assert [row["input_ids"].tolist() for row in rows] == [[[0, 1]], [[2, 3, 4]]]
    assert all((row["attention_mask"] == 1).all() for row in rows)


def test_cosines_are_of_the_mean_over_tokens(tmp_path: Path) -> None:
    np.savez(tmp_path / ROWS_FILE, judged=np.arange(5), judged_lengths=np.array([2, 3]))
    np.save(tmp_path / EXACT_FILE, np.array([[1.0, 0.0], [0.0, 1.0]], np.float32))

    def run(row: Row) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        count = row["input_ids"].shape[1]
        return np.tile(np.array([3.0, 0.0], np.float32), (1, count, 1))

    assert cosines(run, tmp_path).tolist() == pytest.approx([1.0, 0.0])


def test_every_method_has_an_environment_with_a_lock() -> None:
    assert {method.environment for method in METHODS.values()} == set(LIBRARIES)
    assert versions()["nncf"]["nncf"] == "3.4.0"
    assert all(len(found) == len(LIBRARIES[name]) for name, found in versions().items())
    assert ENVIRONMENTS.name == ".venv-rivals"


def test_a_failure_is_named_in_the_table() -> None:
    good = {"least": 0.9, "mean": 0.95, "products": {"all": 48, "int8": 36, "stored": 0}}
    rows = [
        {"model": "sample", "task": "t", "method": "one", **good},
        {"model": "sample", "task": "t", "method": "two", "error": "ValueError: shapes"},
        {"model": "deep", "task": "t", "method": "two", **good},
    ]
    report = {
        "machine": "a CPU",
        "date": "2026-11-29",
        "texts": 384,
        "versions": {"x": {"x": "1"}},
        "rows": rows,
    }
    text = table_of(report)
    assert "| one | 0.900000 / 0.950000 |  | 36 of 48 |" in text
    assert "| two | failed | 0.900000 / 0.950000 | 36 of 48 |" in text
    assert "two failed: ValueError: shapes." in text
