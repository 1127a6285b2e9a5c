"""Proofs of small bundles: what is right is proved, what is planted is found where it belongs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import export.proof.control_sections
import export.proof.work
from export.checkpoint.reader import Checkpoint
from export.gate.reference import reference_model
from export.proof.controls import CONTROLS, Control
from export.proof.prove import JSON_FILE, PAGE_FILE
from export.proof.sections import SECTIONS
from runtimes.choices import GraphKind
from tests.support import build, edit_graph, edit_json, listing, rehash, run_cli
from tests.zoo import write_original

TOKENS = 48
ROPE = "RoPE's base 10000"


def prove(bundle: Path, out: Path, *more: object, tokens: int = TOKENS) -> int:
    return run_cli("prove", "--bundle", bundle, "--out", out, "--max-tokens", tokens, *more)


def verdicts(out: Path) -> dict[str, str]:
    """By section; the page has to say the same on top."""
    proof = json.loads((out / JSON_FILE).read_text())
    assert proof["verdict"].upper() in (out / PAGE_FILE).read_text().split("</strong>")[0]
    return {section["name"]: section["result"]["verdict"] for section in proof["sections"]}


def failed(out: Path) -> set[str]:
    return {name for name, verdict in verdicts(out).items() if verdict == "failed"}


def section(out: Path, name: str) -> Mapping[str, Any]:
    proof = json.loads((out / JSON_FILE).read_text())
    found: Mapping[str, Any] = next(s["result"] for s in proof["sections"] if s["name"] == name)
    return found


def copied(bundle: Path, to: Path) -> Path:
    return Path(shutil.copytree(bundle, to / bundle.name))


def test_a_bundle_with_everything_is_proved(
    chunk_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    before = listing(chunk_bundle)
    assert prove(chunk_bundle, tmp_path, "--reference", small_folder) == 0
    assert listing(chunk_bundle) == before
    found = verdicts(tmp_path)
    assert list(found) == [row.name for row in SECTIONS]
    assert {name for name, verdict in found.items() if verdict != "proved"} == {"plan"}
    curve = section(tmp_path, "lengths")["charts"][0]["curves"][0]
    assert [point["tokens"] for point in curve["points"]] == [2, 8, 32, TOKENS]
    rows = section(tmp_path, "controls")["tables"][0]["rows"]
    assert {row[0] for row in rows} >= {*CONTROLS, "padding read as text"}
    assert all(row[-1] not in ("ACCEPTED", "") for row in rows)


def test_a_changed_byte_fails_and_nothing_is_executed(
    small_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    bundle = copied(small_bundle, tmp_path)
    path = next(bundle.rglob("*.onnx_data"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert prove(bundle, tmp_path / "out", "--reference", small_folder) == 3
    found = verdicts(tmp_path / "out")
    assert found.pop("files") == "failed"
    assert set(found.values()) == {"not executable here"}
    assert not list((tmp_path / "out").rglob("*.npz"))


def test_another_tasks_weights_are_found_by_length_language_and_task(
    small_bundle: Path, out: Path, small_folder: Path, tmp_path: Path
) -> None:
    assert build(out, "--model", small_folder, "--task", "classification") == 0
    other = out / "small" / "classification-fp32-onnxruntime"
    bundle = copied(small_bundle, tmp_path)
    for path in bundle.rglob("*.onnx_data"):
        shutil.copyfile(other / path.relative_to(bundle), path)
    rehash(bundle)
    assert prove(bundle, tmp_path / "out", "--reference", small_folder) == 3
    assert failed(tmp_path / "out") >= {"lengths", "languages", "tasks", "controls"}
    assert verdicts(tmp_path / "out")["files"] == "proved"
    assert "nearer to the wrong model" in section(tmp_path / "out", "controls")["reason"]


def test_another_base_of_rope_is_found_and_named(small_folder: Path, tmp_path: Path) -> None:
    """The shortest text has nothing to turn, so it takes length; the control says which."""
    other = Path(shutil.copytree(small_folder, tmp_path / "small"))
    edit_json(other / "config.json", rotary_emb_base=10000.0)
    assert build(tmp_path, "--model", other, "--task", "separation") == 0
    bundle = tmp_path / "small" / "separation-fp32-onnxruntime"
    manifest = json.loads((bundle / "manifest.json").read_text())
    right = json.loads((small_manifest(small_folder, tmp_path)).read_text())
    edit_json(bundle / "manifest.json", model=manifest["model"] | right["model"])
    assert prove(bundle, tmp_path / "out", "--reference", small_folder) == 3
    assert "lengths" in failed(tmp_path / "out")
    rows = section(tmp_path / "out", "controls")["tables"][0]["rows"]
    place = next(float(row[4]) for row in rows if row[0] == ROPE)
    assert place == pytest.approx(1, abs=1e-3)


def small_manifest(checkpoint: Path, folder: Path) -> Path:
    """That of a bundle of the unchanged checkpoint."""
    assert build(folder / "right", "--model", checkpoint, "--task", "separation") == 0
    return folder / "right" / checkpoint.name / "separation-fp32-onnxruntime" / "manifest.json"


def unmasked(graph: onnx.GraphProto) -> None:
    """Ones take the mask's place, so that padding is read as text."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[place] = "all_ones"
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    graph.node.insert(
        0, helper.make_node("ConstantOfShape", ["ids_shape"], ["all_ones"], value=one)
    )
    graph.node.insert(0, helper.make_node("Shape", ["input_ids"], ["ids_shape"]))


def test_padding_that_is_read_is_found_beside_neighbours(
    small_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    bundle = copied(small_bundle, tmp_path)
    for path in bundle.rglob("*.onnx"):
        edit_graph(path, unmasked)
    rehash(bundle)
    assert prove(bundle, tmp_path / "out", "--reference", small_folder) == 3
    assert "neighbours" in failed(tmp_path / "out")
    assert verdicts(tmp_path / "out")["lengths"] == "proved"  # texts of one length are not padded


def test_a_graph_that_does_not_run_fails_with_the_reason(
    small_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    bundle = copied(small_bundle, tmp_path)
    for path in bundle.rglob("*.onnx"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rehash(bundle)
    assert prove(bundle, tmp_path / "out", "--reference", small_folder) == 3
    assert "does not run" in section(tmp_path / "out", "lengths")["reason"]


@pytest.mark.parametrize(
    "right",
    [Control(), Control(lambda checkpoint, task: reference_model(checkpoint, task))],
    ids=["cut", "model"],
)
def test_a_control_that_is_right_fails_the_proof(
    right: Control,
    small_bundle: Path,
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (export.proof.work, export.proof.control_sections):
        monkeypatch.setattr(module, "CONTROLS", {"a right one": right, "a wrong one": _other()})
    assert prove(small_bundle, tmp_path, "--reference", small_folder) == 3
    assert failed(tmp_path) == {"controls"}
    reason = section(tmp_path, "controls")["reason"]
    assert "a right one" in reason
    assert "accepted" in reason
    assert "a wrong one" not in reason


def _other() -> Control:
    def model(checkpoint: Checkpoint, task: str) -> Any:
        return reference_model(checkpoint, "classification")

    return Control(model)


def _without_seconds(out: Path) -> dict[str, Any]:
    proof: dict[str, Any] = json.loads((out / JSON_FILE).read_text())
    return {name: value for name, value in proof.items() if name != "seconds"}


def test_a_killed_proof_goes_on_and_ends_with_the_same_json(
    small_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "export.cli", "prove", "--bundle", str(small_bundle)]
    command += ["--reference", str(small_folder), "--max-tokens", str(TOKENS), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished: set[str] = set()
    for after in (2, 12):  # files there when it is killed
        process = subprocess.Popen(
            [*command, str(killed)], env=environment, stderr=subprocess.DEVNULL
        )
        limit = time.monotonic() + 300
        while len(list(killed.rglob("*.npz"))) < after and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (killed / JSON_FILE).exists()
        assert not (killed / PAGE_FILE).exists()
        finished = {path.name for path in killed.rglob("*.npz")}
    written = {path: path.stat().st_mtime_ns for path in killed.rglob("*.npz")}
    for out in (killed, whole):
        subprocess.run([*command, str(out)], env=environment, check=True, capture_output=True)
    assert _without_seconds(killed) == _without_seconds(whole)
    assert finished
    assert {path: path.stat().st_mtime_ns for path in written} == written


GRAPHS = {kind.value for kind in GraphKind}
FORMS: Mapping[str, tuple[object, ...]] = {
    "slot": ("--adapter", "slot", "--task", "base"),
    "official": ("--adapter", "switchable", "--interface", "official"),
    "base": ("--task", "base"),
    "table": ("--task", "separation", "--embeddings", "int8"),
    "bf16": ("--task", "separation", "--precision", "bf16"),
    "fp16": ("--task", "retrieval.query", "--precision", "fp16"),
    "openvino": ("--task", "separation", "--target", "openvino"),
    "tensorrt10": ("--task", "separation", "--target", "tensorrt10", "--precision", "bf16"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_proved(form: str, small_folder: Path, tmp_path: Path) -> None:
    assert build(tmp_path, "--model", small_folder, *FORMS[form]) == 0
    (bundle,) = (tmp_path / "small").iterdir()
    assert prove(bundle, tmp_path / "out", "--reference", small_folder) == 0
    proof = json.loads((tmp_path / "out" / JSON_FILE).read_text())
    assert proof["executed"][0]["label"] == proof["subject"]
    assert proof["executed"][0]["word"] in ("run", "run as the traced module")
    named = {entry["file"] for entry in proof["executed"]}
    artifacts = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    graphs = {entry["path"] for entry in artifacts if entry["kind"] in GRAPHS}
    assert named == graphs


def test_few_tokens_are_proved_on_texts_that_they_cover(
    pruned: Path, small_folder: Path, tmp_path: Path
) -> None:
    assert prove(pruned, tmp_path, "--reference", small_folder) == 0
    rows = section(tmp_path, "languages")["tables"][0]["rows"]
    assert 0 < len(rows) < 24


def test_an_engine_is_emulated_and_said_to_be_built(fp16_bundle: Path, tmp_path: Path) -> None:
    """The sample's, without naming its checkpoint."""
    assert prove(fp16_bundle, tmp_path, tokens=16) == 0
    assert verdicts(tmp_path)["plan"] == "proved"
    proof = json.loads((tmp_path / JSON_FILE).read_text())
    words = {entry["label"]: entry["word"] for entry in proof["executed"]}
    assert words["portable"] == "run"
    assert words["tensorrt_rtx engine, sm89"] == "built, not executed"
    assert ("emulated engine" in words) == ("emulated" in words.values())


def wrong_checkpoint(folder: Path) -> Path:
    return write_original(folder / "other", seed=1)


REFUSED: Mapping[str, Callable[[Path, Path, Path], list[object]]] = {
    "another checkpoint": lambda bundle, right, tmp: ["--reference", wrong_checkpoint(tmp)],
    "no such checkpoint": lambda bundle, right, tmp: ["--reference", tmp / "nowhere"],
    "none named": lambda bundle, right, tmp: [],
    "a revision of none": lambda bundle, right, tmp: ["--revision", "x"],
    "too few tokens": lambda bundle, right, tmp: ["--reference", right, "--max-tokens", 1],
    "too many tokens": lambda bundle, right, tmp: ["--reference", right, "--max-tokens", 9000],
    "no number": lambda bundle, right, tmp: ["--reference", right, "--max-tokens", "many"],
    "in the bundle": lambda bundle, right, tmp: ["--reference", right, "--out", bundle / "proof"],
    "no adapter there": lambda bundle, right, tmp: [
        *("--reference", right, "--adapter-path", tmp / "nowhere")
    ],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(
    what: str,
    small_bundle: Path,
    small_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = listing(small_bundle)
    arguments = REFUSED[what](small_bundle, small_folder, tmp_path)
    assert run_cli("prove", "--bundle", small_bundle, "--out", tmp_path / "out", *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert not (tmp_path / "out").exists()
    assert listing(small_bundle) == before
