"""Where a bundle's graphs lie, and what clients of Hugging Face repositories find there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from adaptrt import Embedder
from runtimes.manifest import read_manifest
from tests.support import build, edit_json, listing, padded, run_cli, session

GRAPH = Path("onnx") / "model.onnx"


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def test_first_output_is_token_vectors_whose_mean_is_the_second(small_bundle: Path) -> None:
    opened = session(str(small_bundle / GRAPH))
    inputs = padded([9, 3, 1])
    assert [o.name for o in opened.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    tokens, vectors = opened.run(None, inputs)
    mask = inputs["attention_mask"][..., None]
    means = (tokens * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(
        means / np.linalg.norm(means, axis=1, keepdims=True), vectors, atol=1e-6
    )


def test_declared_opset_has_every_operator_of_the_graph(small_bundle: Path) -> None:
    model = onnx.load(small_bundle / GRAPH, load_external_data=False)
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "com.microsoft": 1}
    assert model.ir_version == 8
    for node in model.graph.node:
        if not node.domain:
            schema = onnx.defs.get_schema(node.op_type, 18, "")
            assert {a.name for a in node.attribute} <= set(schema.attributes), node.name


def test_declared_opset_changes_no_bit(small_bundle: Path) -> None:
    """The operators' versions of 18 and of the traced 23 compute the same."""
    path = small_bundle / GRAPH
    model = onnx.load(path, load_external_data=False)
    (standard,) = (o for o in model.opset_import if not o.domain)
    standard.version, model.ir_version = 23, 11
    newer = path.with_name("newer.onnx")
    newer.write_bytes(model.SerializeToString())
    try:
        inputs = padded([70, 9, 33])
        for now, then in zip(
            *(session(str(p)).run(None, inputs) for p in (path, newer)), strict=True
        ):
            np.testing.assert_array_equal(now, then)
    finally:
        newer.unlink()


def test_files_of_sentence_transformers_say_mean_and_the_tasks_instruction(
    query_bundle: Path,
) -> None:
    manifest = read_manifest(query_bundle)
    assert [m["type"].split(".")[-1] for m in content(query_bundle / "modules.json")] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    pooling = content(query_bundle / "1_Pooling" / "config.json")
    assert pooling == {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
    prompts = content(query_bundle / "config_sentence_transformers.json")
    assert prompts["default_prompt_name"] == "retrieval.query"
    assert prompts["prompts"] == dict.fromkeys(
        ("query", "document", "retrieval.query"), manifest.prefix
    )
    assert manifest.prefix


def test_configuration_names_the_model_and_no_code(small_bundle: Path) -> None:
    config = content(small_bundle / "config.json")
    assert config["model_type"] == "xlm-roberta"
    assert not {"auto_map", "task_instructions"} & set(config)
    assert config["transformers.js_config"]["use_external_data_format"] == {"model.onnx": 1}
    prompts = content(small_bundle / "config_sentence_transformers.json")
    assert prompts["default_prompt_name"] is None  # there is no instruction


def test_flat_layout_has_the_same_vectors_and_a_name_of_its_own(
    small_bundle: Path, small_folder: Path, tmp_path: Path
) -> None:
    assert build(tmp_path, "--model", small_folder, "--task", "separation", "--layout", "flat") == 0
    flat = tmp_path / "small" / "separation-fp32-onnxruntime-flat"
    assert not any("/" in name for name in listing(flat))
    with Embedder.load(flat) as one, Embedder.load(small_bundle) as other:
        np.testing.assert_array_equal(one.encode(["a", "b c"]), other.encode(["a", "b c"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layout", "git"), "LAYOUT: got 'git', expected one of auto, hub, flat"),
        (("--layout", "hub", "--adapter", "switchable"), "LAYOUT=hub is for clients"),
        (("--layout", "hub", "--head", "chunks"), "LAYOUT=hub is for clients"),
    ],
)
def test_layout_that_no_bundle_has_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert build(tmp_path, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert listing(tmp_path) == {}


def test_bundle_of_before_is_replaced_and_a_chosen_layout_is_not(
    bundle_copy: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bundles before schema 1.4 were flat because there was nothing else."""
    place = bundle_copy.rename(bundle_copy.with_name("mine"))
    options = ("--model", small_folder, "--task", "separation", "--name", "mine")
    out = place.parent
    (out / "small").mkdir()
    place = place.rename(out / "small" / "mine")
    assert build(out, *options, "--layout", "flat") == 2
    assert "was built with LAYOUT='hub'" in capsys.readouterr().err
    edit_json(place / "manifest.json", schema_minor=3)
    assert build(out, *options, "--layout", "flat") == 0
    assert run_cli("verify", "--bundle", place) == 0


def test_runtime_asks_for_the_heads_output_alone(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token vectors are [batch, sequence, hidden]: 256 MB of 8 texts of 8192 tokens."""
    wanted: list[object] = []
    run = ort.InferenceSession.run

    def spy(session: ort.InferenceSession, names: object, *arguments: object) -> object:
        wanted.append(names)
        return run(session, names, *arguments)

    monkeypatch.setattr(ort.InferenceSession, "run", spy)
    with Embedder.load(small_bundle) as embedder:
        embedder.encode(["a"])
    assert wanted == [("sentence_embedding",)]
