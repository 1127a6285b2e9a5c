"""``adaptrt verify``: passes on what was built, and notices every later change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.checkpoint.reader import Checkpoint
from runtimes.bundle_files import WEIGHT_FILE
from runtimes.choices import ArtifactKind, FileKind, GraphKind
from runtimes.manifest import read_manifest
from tests.support import (
    build,
    changed,
    edit_graph,
    edit_json,
    listing,
    rehash,
    run_cli,
    write_graphs,
)

KINDS = {
    GraphKind.PORTABLE,
    GraphKind.ONNXRUNTIME,
    GraphKind.TENSORRT,
    GraphKind.PRIMITIVE,
    FileKind.WEIGHTS,
    FileKind.TOKENIZER,
    FileKind.REFERENCE,
    FileKind.PARITY,
}


def verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_cli("verify", "--bundle", bundle)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    "name", ["fp16_bundle", "fp32_bundle", "bf16_bundle", "query_bundle", "chunk_bundle"]
)
def test_fresh_bundle_passes(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    bundle: Path = request.getfixturevalue(name)
    before = {n: b for n, b in listing(bundle).items() if n == "manifest.json"}
    code, out, err = verify(bundle, capsys)
    assert (code, err) == (0, "")
    assert str(bundle) in out
    recorded = json.loads((bundle / "parity.json").read_text())["graphs"]
    assert [line.strip().split(": ")[0] for line in out.splitlines()[1:]] == list(recorded)
    for label, line in zip(recorded, out.splitlines()[1:], strict=True):
        torch_ran_it = name == "bf16_bundle" and label == "portable"
        assert ("not run, it was executed by torch-cpu" in line) == torch_ran_it
        assert ("minimum cosine" in line) != torch_ran_it
    assert (bundle / "manifest.json").read_bytes() == before["manifest.json"]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_byte_exits_3_and_names_the_file(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str], kind: ArtifactKind, place: float
) -> None:
    name = read_manifest(bundle_copy).artifact(kind).path
    raw = bytearray((bundle_copy / name).read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 0x10
    (bundle_copy / name).write_bytes(bytes(raw))
    code, out, err = verify(bundle_copy, capsys)
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert name in err


def test_flipped_byte_of_an_engine_exits_3(
    fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(fp16_bundle, tmp_path / "bundle"))
    engine = copy / "encoder.sm89.engine"
    with engine.open("r+b") as stream:
        stream.seek(engine.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    code, _, err = verify(copy, capsys)
    assert code == 3
    assert "encoder.sm89.engine" in err


def test_weights_of_another_task_fail_whatever_the_manifest_says(
    bundle_copy: Path, small: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_graphs(tmp_path / "other", small, "classification", "float32")
    (bundle_copy / "onnx" / WEIGHT_FILE).write_bytes((other / WEIGHT_FILE).read_bytes())
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 3
    assert "parity failed" in err


def test_same_weights_with_a_rehashed_manifest_still_pass(
    bundle_copy: Path, small: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards the test above: it is the task that makes the difference, not the copying."""
    same = write_graphs(tmp_path / "same", small, "separation", "float32")
    (bundle_copy / "onnx" / WEIGHT_FILE).write_bytes((same / WEIGHT_FILE).read_bytes())
    rehash(bundle_copy)
    assert verify(bundle_copy, capsys)[0] == 0


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_weights_that_give_nan_exit_3(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_copy / "onnx" / WEIGHT_FILE
    path.write_bytes(np.full(path.stat().st_size // 4, np.nan, np.float32).tobytes())
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 3
    assert "parity failed" in err


def test_extra_file_exits_3_and_missing_file_2(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle_copy / "stray.bin").write_bytes(b"x")
    code, _, err = verify(bundle_copy, capsys)
    assert code == 3
    assert "stray.bin" in err
    (bundle_copy / "stray.bin").unlink()
    (bundle_copy / "parity.json").unlink()
    code, _, err = verify(bundle_copy, capsys)
    assert code == 2
    assert "parity.json: no such file" in err


def test_reference_of_other_texts_exits_2_with_the_version(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(bundle_copy / "parity.json", texts_sha256="0" * 64)
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 2
    assert "other parity texts" in err


def test_reference_of_the_wrong_shape_exits_3(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_copy / "reference.npy"
    np.save(path, np.load(path)[:-1])
    rehash(bundle_copy)
    assert verify(bundle_copy, capsys)[0] == 3


def test_pickled_reference_is_never_loaded(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(bundle_copy / "reference.npy", np.array([{"a": 1}], object), allow_pickle=True)
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code in (2, 3)
    assert err.startswith("error: ")


@pytest.fixture
def chunk_copy(chunk_bundle: Path, tmp_path: Path) -> Path:
    """Six tasks and a chunk head, to damage."""
    return Path(shutil.copytree(chunk_bundle, tmp_path / "bundle"))


def pool_neighbours(graph: onnx.GraphProto) -> None:
    """Each chunk gets a tenth of the others' weights; one chunk over the whole text stays right."""
    for node in graph.node:
        node.input[:] = ["smeared" if name == "chunk_weights" else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "chunks_axis"))
    graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "tenth"))
    made = [
        onnx.helper.make_node("ReduceSum", ["chunk_weights", "chunks_axis"], ["all_chunks"]),
        onnx.helper.make_node("Mul", ["all_chunks", "tenth"], ["some_of_all"]),
        onnx.helper.make_node("Add", ["chunk_weights", "some_of_all"], ["smeared"]),
    ]
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def disturb_batches_of_one_task(graph: onnx.GraphProto) -> None:
    """Three rows or more that are all of task 3 get other vectors; mixed batches stay right."""
    output = graph.output[-1].name
    for node in graph.node:
        node.output[:] = ["undisturbed" if name == output else name for name in node.output]
    wave = np.resize(np.array([0.1, -0.1], np.float32), 64)
    for name, value in {"wave": wave, "one": np.array(1, np.float32), "three": np.array(3)}.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    graph.node.append(onnx.helper.make_node("ReduceMax", ["task_id"], ["last"], keepdims=0))
    graph.node.append(onnx.helper.make_node("ReduceMin", ["task_id"], ["first"], keepdims=0))
    for kind, inputs, made in (
        ("Equal", ["last", "three"], "last_is_3"),
        ("Equal", ["first", "three"], "first_is_3"),
        ("And", ["last_is_3", "first_is_3"], "alike"),
        ("Size", ["task_id"], "rows"),
        ("GreaterOrEqual", ["rows", "three"], "many"),
        ("And", ["alike", "many"], "both"),
        ("CastLike", ["both", "one"], "share"),
        ("Mul", ["share", "wave"], "shift"),
        ("Add", ["shift", "one"], "factors"),
        ("Mul", ["undisturbed", "factors"], output),
    ):
        graph.node.append(onnx.helper.make_node(kind, inputs, [made]))


@pytest.mark.parametrize(
    ("edit", "label"),
    [
        (pool_neighbours, "onnxruntime, chunks"),
        (disturb_batches_of_one_task, "onnxruntime, one task at a time"),
    ],
)
def test_graph_that_is_wrong_in_one_pass_alone_exits_3_and_names_the_pass(
    chunk_copy: Path, capsys: pytest.CaptureFixture[str], edit: Any, label: str
) -> None:
    edit_graph(chunk_copy / "model.onnxruntime.onnx", edit)
    rehash(chunk_copy)
    code, out, err = verify(chunk_copy, capsys)
    assert (code, out) == (3, "")
    assert f"parity failed for {label}: minimum cosine" in err
    assert "published" not in err


def rename_output(graph: onnx.GraphProto) -> None:
    graph.node.append(onnx.helper.make_node("Identity", [graph.output[-1].name], ["vectors"]))
    graph.output[-1].name = "vectors"


def narrow_output(graph: onnx.GraphProto) -> None:
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["whole" if name == output else name for name in node.output]
    for name, number in (("from", 0), ("until", 3), ("axis", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    graph.node.append(onnx.helper.make_node("Slice", ["whole", "from", "until", "axis"], [output]))
    del graph.output[-1].type.tensor_type.shape.dim[:]


def ask_for_more(graph: onnx.GraphProto) -> None:
    graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize("edit", [rename_output, narrow_output, ask_for_more])
def test_graph_of_another_contract_exits_3(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str], edit: Any
) -> None:
    edit_graph(bundle_copy / "onnx" / "model.onnx", edit)
    rehash(bundle_copy)
    code, out, err = verify(bundle_copy, capsys)
    assert (code, out) == (3, "")
    assert "inputs or outputs are not those of such a bundle" in err
    assert err.count("\n") == 1


def test_chunks_of_a_bundle_of_before_are_said_not_to_be_compared(
    chunk_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds no reference of them. A bundle of today that lost it is refused."""
    manifest = json.loads((chunk_copy / "manifest.json").read_text())
    kept = [a for a in manifest["artifacts"] if a["kind"] != "reference_chunks"]
    assert len(kept) == len(manifest["artifacts"]) - 1
    (chunk_copy / "reference_chunks.npy").unlink()
    edit_json(chunk_copy / "manifest.json", artifacts=kept)
    code, _, err = verify(chunk_copy, capsys)
    assert code == 2
    assert "no 'reference_chunks' artefact" in err
    edit_json(chunk_copy / "manifest.json", drop=("schema_minor",))
    code, out, err = verify(chunk_copy, capsys)
    assert (code, err) == (0, "")
    for kind in ("portable", "onnxruntime"):
        assert f"{kind}, chunks: not run, the bundle, built by an earlier version" in out
    assert "onnxruntime, one task at a time: 1" in out


def test_official_interface_is_run_task_by_task(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = ("--adapter", "switchable", "--interface", "official", "--model", small_folder)
    assert build(tmp_path, *official) == 0
    code, out, _ = verify(tmp_path / "small" / "official-fp32", capsys)
    assert code == 0
    assert "  onnxruntime: 128 texts, minimum cosine" in out


RECORDED = ("graphs", "onnxruntime")


def edit_recorded(bundle: Path, at: tuple[Any, ...], value: Any) -> None:
    """Change an entry of parity.json (``...`` removes it), and whatever guards the file."""
    path = bundle / "parity.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), at, value)))
    rehash(bundle)


@pytest.mark.parametrize(
    ("at", "value", "code", "words"),
    [
        (("texts_sha256",), ..., 2, "texts_sha256: missing"),
        (("parity_tokens",), "many", 2, "parity_tokens: got 'many', expected int"),
        (("graphs",), {}, 2, "graphs: got {}, expected object of length >= 1"),
        (RECORDED, ..., 2, "no record of onnxruntime"),
        ((*RECORDED, "min_cosine"), ..., 2, "graphs[...].min_cosine: missing"),
        ((*RECORDED, "min_cosine"), 0.9, 3, "minimum cosine of onnxruntime 1.0000000, the bundle"),
        ((*RECORDED, "mean_cosine"), -1, 3, "mean cosine of onnxruntime 1.0000000, the bundle"),
        ((*RECORDED, "threshold"), 0.5, 2, "judged by cosines of 0.5 and 0.999999 on average"),
        ((*RECORDED, "mean_threshold"), 0.5, 2, "cosines of 0.999999 and 0.5 on average"),
        ((*RECORDED, "texts", 0, "name"), "\x1b[2J", 2, "text '\\x1b[2J' of task 'separation'"),
        ((*RECORDED, "texts", 0, "task"), "base", 2, "of task 'base' is none of the gate's"),
        ((*RECORDED, "texts"), ..., 2, "graphs[...].texts: missing"),
    ],
)
def test_record_that_is_not_the_gates_is_one_line(
    bundle_copy: Path,
    capsys: pytest.CaptureFixture[str],
    at: tuple[Any, ...],
    value: Any,
    code: int,
    words: str,
) -> None:
    edit_recorded(bundle_copy, at, value)
    found, out, err = verify(bundle_copy, capsys)
    assert (found, out) == (code, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.rstrip("\n").isprintable()


@pytest.mark.parametrize("edit", [(), ("executors",)], ids=["of_today", "of_before"])
@pytest.mark.parametrize("label", ["onnxruntime", "portable"])
def test_report_that_was_removed_exits_2(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str], label: str, edit: tuple[str, ...]
) -> None:
    """A bundle of before does not name the executors of its gate; there were these."""
    if edit:
        edit_recorded(bundle_copy, edit, ...)
        assert verify(bundle_copy, capsys)[0] == 0
    edit_recorded(bundle_copy, ("graphs", label), ...)
    code, out, err = verify(bundle_copy, capsys)
    assert (code, out) == (2, "")
    assert f"no record of {label}; verify with adaptrt" in err


def test_report_of_torch_that_was_removed_exits_2(
    bf16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Although it is not computed again."""
    copy = Path(shutil.copytree(bf16_bundle, tmp_path / "copy"))
    edit_recorded(copy, ("graphs", "portable"), ...)
    code, _, err = verify(copy, capsys)
    assert code == 2
    assert "no record of portable" in err


def test_record_of_what_the_gate_does_not_compare_exits_2(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = json.loads((bundle_copy / "parity.json").read_text())["graphs"]["portable"]
    edit_recorded(bundle_copy, ("graphs", "portable, sideways"), recorded)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 2
    assert "records 'portable, sideways', which the gate does not compare" in err
