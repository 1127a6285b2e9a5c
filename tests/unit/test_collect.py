"""Observing a graph's tensors: exact maxima, sampled bodies, refusals, no copy of the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calibration.collect import SAMPLED_TOKENS, collect
from calibration.observers import Histogram
from calibration.stratify import Sample
from export.checkpoint.reader import Checkpoint
from export.graph.gemms import gemm_nodes
from runtimes.choices import GraphKind
from runtimes.errors import InputError
from tests.support import Array, graph_path, listing, parse_graph, session, write_graphs

WIDTH, VOCABULARY = 6, 2000
GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, width] sentence_embedding) {
  read = Gather(table, input_ids)
  other = Neg(read)
  sentence_embedding = ReduceMean<keepdims=0>(other, axis)
}
"""
SWITCHABLE = """
<ir_version: 10, opset_import: ["" : 23]>
g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch] task_id)
    => (float[batch, width] sentence_embedding) {
  row = Gather(table, input_ids)
  factor = Cast<to=1>(task_id)
  read = Mul(row, factor)
  sentence_embedding = ReduceMean<keepdims=0>(read, axis)
}
"""


def table(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)


def write(folder: Path, text: str, rows: Array) -> Path:
    model = parse_graph(text, table=rows, axis=np.array([1]))
    ir.save(model, folder / "graph.onnx", external_data="graph.data")
    return folder / "graph.onnx"


def sample(*ids: int, task: str = "") -> Sample:
    return Sample(np.array(ids, np.int64), task, "de", 32)


def test_exact_maxima_and_sampled_values(tmp_path: Path) -> None:
    rows = table()
    graph = write(tmp_path, GRAPH, rows)
    long = np.random.default_rng(1).integers(0, VOCABULARY, 3 * SAMPLED_TOKENS - 5)
    texts = [sample(3, 7, 11), Sample(long, "", "ja", 2048)]
    found = collect(graph, {"gemm": "read", "twice": "other"}, texts)
    expected = Histogram()
    for text, stride in zip(texts, (1, 3), strict=True):
        expected.add(rows[text.ids[::stride]])
        expected.add(np.abs(rows[text.ids]).max())
    used = rows[np.concatenate([t.ids for t in texts])]
    for activation in found.values():  # a tensor and its negative have the same magnitudes
        assert np.array_equal(activation.channel_max, np.abs(used).max(axis=0))
        assert activation.histogram.digest() == expected.digest()
        assert activation.histogram.maximum == np.abs(used).max()
    assert found["gemm"].histogram.count == (3 + SAMPLED_TOKENS - 1) * WIDTH + 2


def test_outlier_between_the_sampled_tokens_is_seen(tmp_path: Path) -> None:
    rows = table()
    rows[5, 2] = -900.0
    ids = np.full(2 * SAMPLED_TOKENS, 1)
    ids[1] = 5  # every second token is sampled, this one is not
    found = collect(write(tmp_path, GRAPH, rows), {"gemm": "read"}, [Sample(ids, "", "en", 2048)])
    assert found["gemm"].channel_max[2] == 900.0
    assert found["gemm"].histogram.maximum == 900.0


def test_order_of_the_texts_does_not_matter(tmp_path: Path) -> None:
    graph = write(tmp_path, GRAPH, table())
    texts = [sample(*range(n, 3 * n)) for n in range(1, 9)]
    one, two = (collect(graph, {"gemm": "read"}, order)["gemm"] for order in (texts, texts[::-1]))
    assert one.histogram.digest() == two.histogram.digest()
    assert np.array_equal(one.channel_max, two.channel_max)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 700])
def test_activation_that_is_not_finite_is_refused(tmp_path: Path, bad: float, place: int) -> None:
    """Wherever it stands, sampled or not: a maximum can lose NaN."""
    rows = table()
    rows[9, 3] = bad
    ids = np.full(2 * SAMPLED_TOKENS, 1)
    ids[place] = 9
    texts = [sample(1, 2, 3), Sample(ids, "", "fr", 2048)]
    words = r"input of gemm \(read\) is not finite for text 1 \(fr, 1024 tokens\)"
    with pytest.raises(InputError, match=words):
        collect(write(tmp_path, GRAPH, rows), {"gemm": "read"}, texts)


def test_switchable_graph_takes_each_samples_task(tmp_path: Path) -> None:
    graph = write(tmp_path, SWITCHABLE, np.ones((VOCABULARY, WIDTH), np.float32))
    texts = [sample(1, task="two"), sample(1, 2, task="three")]
    found = collect(graph, {"gemm": "read"}, texts, task_ids={"two": 2, "three": 3})
    assert found["gemm"].channel_max.tolist() == [3.0] * WIDTH
    assert found["gemm"].histogram.counts.nonzero()[0].tolist() == [1024, 1536]


def test_unknown_tensor_and_no_texts_are_refused(tmp_path: Path) -> None:
    graph = write(tmp_path, GRAPH, table())
    with pytest.raises(InputError, match=r"graph.onnx: no tensor 'gone', which gemm is to read"):
        collect(graph, {"gemm": "gone"}, [sample(1)])
    with pytest.raises(InputError, match="no text to run"):
        collect(graph, {"gemm": "read"}, [])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path: Path) -> None:
    """60 activations of 16 MB: the runtime kept each of them until the last one was computed."""
    chain = "\n".join(f"  t{i} = Sin({f't{i - 1}' if i else 'first'})" for i in range(60))
    text = GRAPH.replace("  read = ", "  first = ").replace("  other = Neg(read)", chain)
    graph = write(
        tmp_path,
        text.replace("Mean<keepdims=0>(other", "Mean<keepdims=0>(t59"),
        np.ones((10, 1024), np.float32),
    )
    code = f"""
import re
from pathlib import Path
import numpy as np
from calibration.collect import collect
from calibration.stratify import Sample
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak()
sample = Sample(np.ones(4096, np.int64), "", "en", 8192)
collect(Path({str(graph)!r}), {{f"g{{i}}": f"t{{i}}" for i in range(60)}}, [sample], threads=1)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300  # 120 MB of sampled values, and a few activations


def test_real_graph_beside_its_weights(tmp_path: Path, small: Checkpoint) -> None:
    """Against the same tensors read out by ONNX Runtime itself; nothing is written."""
    folder = write_graphs(tmp_path, small, "separation", "float32", 64)
    graph = graph_path(folder, GraphKind.ONNXRUNTIME)
    before = listing(folder)
    gemms = gemm_nodes(ir.load(graph))
    tensors = {name: str(node.inputs[0].name) for name, node in gemms.items() if node.inputs[0]}
    assert len(tensors) == 8
    ids = np.random.default_rng(0).integers(5, 1000, 40)
    found = collect(graph, tensors, [Sample(ids, "", "en", 128)], threads=1)
    assert listing(folder) == before
    model = ir.load(graph)
    values = {v.name: v for node in model.graph for v in node.outputs}
    model.graph.outputs.extend(values[t] for t in tensors.values())
    (folder / "read.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    feeds = {"input_ids": ids[None], "attention_mask": np.ones((1, 40), np.int64)}
    exact = session(str(folder / "read.onnx")).run(list(tensors.values()), feeds)
    for (name, activation), value in zip(found.items(), exact, strict=True):
        assert activation.channel_max.shape == (128 if name.endswith("fc2") else 64,)
        np.testing.assert_allclose(activation.channel_max, np.abs(value[0]).max(axis=0), rtol=1e-5)
