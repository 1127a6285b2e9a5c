"""A family that is one row and one loader is built, judged, verified and run as any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel

from adaptrt import Embedder
from export.checkpoint.families import FAMILIES
from export.checkpoint.family import Family
from export.checkpoint.names import QKV, TOKEN_TYPE
from export.checkpoint.reader import open_checkpoint
from runtimes.choices import BASE_TASK
from runtimes.manifest import read_manifest
from tests import second_family
from tests.peft_zoo import mean_vectors, quiet
from tests.support import Array, build, cosines, few_gate_texts, listing, run_cli, sample_tokenizer

TEXTS = ["Wo ist der Bahnhof?", "東京は雨です。", "The last train leaves at ten. " * 12]


@pytest.fixture(scope="module", autouse=True)
def row() -> Iterator[None]:
    """All that the project learns of the family."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, second_family.MODEL_TYPE, second_family.FAMILY)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return second_family.write_checkpoint(tmp_path_factory.mktemp("family") / "plain")


@pytest.fixture(scope="module")
def family_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("family-out")


def natively(model: Path, adapter: Path | None, prefix: str = "") -> Array:
    """The vectors of transformers and PEFT alone."""
    reference = second_family.open_reference(model)
    with quiet():
        if adapter is not None:
            reference = PeftModel.from_pretrained(reference, str(adapter)).eval()
        return mean_vectors(reference, sample_tokenizer().encode([prefix + t for t in TEXTS]))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("fp16", 0.9999)])
def test_merged_bundle_is_the_families_own_implementation(
    model: Path, family_out: Path, precision: str, least: float
) -> None:
    assert build(family_out, "--model", model, "--task", "query", precision=precision) == 0
    bundle = family_out / "plain" / f"query-{precision}-onnxruntime"
    assert run_cli("verify", "--bundle", bundle) == 0
    manifest = read_manifest(bundle)
    assert manifest.architecture.token_types == 0
    assert manifest.model.format == "plain-rope"
    assert manifest.dimensions == (16, 32, 64)
    with Embedder.load(bundle) as embedder:
        ours = embedder.encode(TEXTS)
    assert cosines(ours, natively(model, model / "query", "search: ")).min() >= least
    assert cosines(ours, natively(model, None, "search: ")).min() < 0.99  # adapters do something


def test_switchable_bundle_has_every_task_and_the_base(model: Path, family_out: Path) -> None:
    assert build(family_out, "--model", model, "--adapter", "switchable") == 0
    bundle = family_out / "plain" / "switchable-fp32-onnxruntime"
    assert run_cli("verify", "--bundle", bundle) == 0
    assert read_manifest(bundle).tasks == second_family.TASKS
    with Embedder.load(bundle) as embedder:
        for task in (*second_family.TASKS, BASE_TASK):
            adapter = None if task == BASE_TASK else model / task
            prefix = "search: " if task == "query" else ""
            ours = embedder.encode(TEXTS, task=task)
            assert cosines(ours, natively(model, adapter, prefix)).min() >= 0.999999


def test_slot_takes_a_users_own_adapter(model: Path, family_out: Path, tmp_path: Path) -> None:
    second_family.write_adapter(model, tmp_path / "own", seed=9)
    slot = ("--adapter", "slot", "--rank", 6, "--task", BASE_TASK)
    assert build(family_out, "--model", model, *slot) == 0
    bundle = family_out / "plain" / "base-slot-fp32-r6"
    file = tmp_path / "own.onnx_adapter"
    peft = ("--peft", tmp_path / "own")
    assert run_cli("adapter", *peft, "--bundle", bundle, "--out", file) == 0
    with Embedder.load(bundle, adapter=file) as embedder:
        ours = embedder.encode(TEXTS)
    assert cosines(ours, natively(model, tmp_path / "own")).min() >= 0.999999


def test_int8_bundle_calibrates_and_passes_its_gate(
    model: Path, family_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On few of the texts; random weights hardly rank, so quality is judged mildly."""
    few_gate_texts(monkeypatch)
    few = ("--max-tokens", 64, "--calibration-texts", 24)
    options = ("--model", model, "--task", "passage", *few)
    assert build(family_out, *options, precision="int8", tokens=32) == 0
    bundle = family_out / "plain" / "passage-int8-onnxruntime-t64"
    assert run_cli("verify", "--bundle", bundle) == 0
    quantised = read_manifest(bundle).quantisation
    assert quantised is not None
    assert quantised.share > 0.7


def with_qkv(*names: str) -> Family:
    """The row with other names of the query, key and value in the file."""
    return replace(second_family.FAMILY, names={**second_family.FAMILY.names, QKV: names})


def swapped_projections() -> Family:
    query, key, value = second_family.FAMILY.names[QKV]
    return with_qkv(key, query, value)


def swapped_values() -> Family:
    query, key, value = second_family.FAMILY.names[QKV]
    return with_qkv(query, value, key)


def swapped_adapters() -> Family:
    names = second_family.FAMILY.peft.modules
    q, k = "layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj"
    peft = replace(second_family.FAMILY.peft, modules={**names, q: names[k], k: names[q]})
    return replace(second_family.FAMILY, peft=peft)


def other_rope() -> Family:
    config = replace(second_family.FAMILY.config, rope_theta="rope.former_base")
    return replace(second_family.FAMILY, config=config)


@pytest.mark.parametrize(
    "wrong",
    [swapped_projections, swapped_values, swapped_adapters, other_rope],
    ids=lambda wrong: wrong.__name__,
)
def test_wrong_row_fails_the_gate(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: Callable[[], Family],
) -> None:
    monkeypatch.setitem(FAMILIES, second_family.MODEL_TYPE, wrong())
    assert build(tmp_path, "--model", model, "--task", "query") == 3
    assert "parity failed" in capsys.readouterr().err.splitlines()[-1]
    assert [path for path in listing(tmp_path) if path.endswith("manifest.json")] == []


def test_row_that_names_another_tensor_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = with_qkv("blocks.{}.attn.qkv")
    monkeypatch.setitem(FAMILIES, second_family.MODEL_TYPE, row)
    assert build(tmp_path, "--model", model, "--task", "query") == 2
    assert "tensor blocks.0.attn.qkv." in capsys.readouterr().err


def test_no_tensor_of_token_types_is_in_the_graph(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    assert all(TOKEN_TYPE not in name for name in checkpoint.adapter("query").modules)
    fused = checkpoint.read("encoder.layers.1.mixer.Wqkv.weight")
    key = checkpoint.files.read("blocks.1.attn.key.weight")
    np.testing.assert_array_equal(fused[64:128], key)
