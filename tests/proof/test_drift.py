"""``adaptrt drift``: healthy bundles of every precision name nothing, planted defects are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from export.checkpoint.reader import Checkpoint
from export.drift.blocks import Block
from export.drift.causes import CAUSES
from export.drift.drift import measure_drift
from export.drift.spec import DriftSpec
from export.gate.texts import parity_lines
from tests.proof.defects import DEFECTS, Defect, Patient, epsilon, rope_base, scale
from tests.support import DEEP, build, few_gate_texts, run_cli
from tests.zoo import SIZES, write_original

LENGTHS = (8, 32)
_FEW = ("--calibration-texts", "64")
_RTX = ("--target", "tensorrt_rtx", "--gpu", "sm89")
# What is built of the sample beside the three that defects are planted in.
HEALTHY = {
    "bf16": ("--precision", "bf16"),
    "int8w": ("--precision", "int8w"),
    "int4w": ("--precision", "int4w"),
    "table-int8": ("--precision", "fp32", "--embeddings", "int8"),
    "chunks-fp16": ("--precision", "fp16", "--head", "chunks"),
    "switchable-fp16": ("--precision", "fp16", "--adapter", "switchable"),
    "int8-rtx": ("--precision", "int8", *_FEW, *_RTX),
    "fp8-rtx": ("--precision", "fp8", *_FEW, *_RTX),
}


@pytest.fixture(scope="session")
def int8_bundle(out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        few_gate_texts(patch)
        assert build(out, *_FEW, precision="int8") == 0
    return out / "sample" / "classification-int8-onnxruntime"


@pytest.fixture
def patient(tmp_path: Path, original: Checkpoint) -> Iterator[tuple[Path, Checkpoint]]:
    """Where a copy goes; it is not kept, since there are many."""
    folder = tmp_path / "patient"
    yield folder, original
    shutil.rmtree(folder, ignore_errors=True)


def _found(source: Path, patient: tuple[Path, Checkpoint], defect: Defect) -> tuple[str, str]:
    """The place and the cause that drift names of a copy with a defect."""
    folder, checkpoint = patient
    shutil.copytree(source, folder)
    copy = Patient(folder, checkpoint)
    defect.plant(copy)
    copy.repair()
    drift = measure_drift(DriftSpec(bundle=folder, lengths=(32,)))
    assert drift.first is not None, "nothing departs"
    assert [str(place) for place in drift.departing] == [str(defect.place)]
    return str(drift.first.cell.place), drift.first.finding.cause


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
@pytest.mark.parametrize("bundle", ["fp32", "fp16", "int8"])
def test_a_planted_defect_is_named(
    request: pytest.FixtureRequest,
    bundle: str,
    defect: Defect,
    patient: tuple[Path, Checkpoint],
) -> None:
    if defect.quantised is not None and defect.quantised != (bundle == "int8"):
        pytest.skip("nothing is quantised")
    source = request.getfixturevalue(f"{bundle}_bundle")
    assert _found(source, patient, defect) == (str(defect.place), defect.cause)


def test_every_cause_has_a_defect() -> None:
    """A row of the table that no defect is planted for is not known to be found."""
    planted = {defect.cause for defect in DEFECTS}
    assert {row.name for row in CAUSES} - planted == {
        # Found by the same fits as their neighbours; tests/unit/test_drift.py has them.
        "adapter's strength",
        "another bias",
        "another gamma and beta",
        "outputs cut off",
    }


@pytest.mark.parametrize("bundle", ["fp32", "fp16", "int8"])
def test_a_healthy_bundle_names_none(request: pytest.FixtureRequest, bundle: str) -> None:
    _is_healthy(request.getfixturevalue(f"{bundle}_bundle"))


@pytest.mark.parametrize("name", HEALTHY)
def test_every_precision_is_healthy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_gate_texts(monkeypatch)
    options = HEALTHY[name]
    assert build(tmp_path, *options) == 0
    (manifest,) = tmp_path.glob("*/*/manifest.json")
    _is_healthy(manifest.parent)
    shutil.rmtree(tmp_path)


def _is_healthy(bundle: Path) -> None:
    drift = measure_drift(DriftSpec(bundle=bundle, lengths=(*LENGTHS, 128)))
    assert drift.first is None, drift.first
    assert drift.departing == ()
    # The margin is not used up: at most half of it is.
    assert max(cell.excess for cell in drift.cells) < 1.5
    last = [cell for cell in drift.cells if cell.place.block is Block.POOLING]
    assert min(cell.accumulated.cosine for cell in last) > 0.98


@pytest.mark.parametrize(
    ("bundle", "defect"),
    [
        ("fp16", replace(DEFECTS[0], name="scale", plant=lambda p: scale(p, 1.002))),
        ("int8", replace(DEFECTS[0], name="scale", plant=lambda p: scale(p, 1.02))),
        ("fp32", replace(DEFECTS[0], name="epsilon", plant=lambda p: epsilon(p, 1.5e-5))),
        ("fp16", replace(DEFECTS[0], name="rope", plant=lambda p: rope_base(p, 19500.0))),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_small_defects(
    request: pytest.FixtureRequest,
    bundle: str,
    defect: Defect,
    patient: tuple[Path, Checkpoint],
) -> None:
    """How small one may be; docs/decisions/2026-11-29-drift.md has the least that was found."""
    like = {"scale": "wrong scale", "epsilon": "another epsilon", "rope": "wrong positions"}
    cause = like[defect.name]
    twin = next(each for each in DEFECTS if each.cause == cause)
    source = request.getfixturevalue(f"{bundle}_bundle")
    defect = replace(defect, place=twin.place, cause=cause)
    assert _found(source, patient, defect) == (str(twin.place), cause)


def test_the_command_prints_json_and_a_page(
    fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "drift.html"
    texts = [line["text"] for line in parity_lines()[:3]]
    given = [word for text in texts for word in ("--text", text)]
    options = ("--lengths", "8", "--json", "--html", page)
    assert run_cli("drift", "--bundle", fp16_bundle, *given, *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first"] is None
    assert found["graph"].endswith("model.tensorrt.onnx")
    assert len(found["blocks"]) == 2 + 6 * 9 + 1
    text = page.read_text(encoding="utf-8")
    assert "No block departs" in text
    assert "http" not in text.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--lengths", "3"), "--lengths: got 3, expected 4 to 8192"),
        (("--lengths", "9000"), "--lengths: got 9000"),
        (("--lengths", "8,x"), "--lengths: got 'x', expected a whole number"),
        (("--task", "separation"), "--task: got 'separation', expected classification"),
        (("--reference", "none"), "--reference: got none"),
        (("--revision", "x"), "--revision: is of the checkpoint's hub id"),
        (("--reference", DEEP), "was built from another model"),
        (("--html", "nowhere/drift.html"), "--html: 'nowhere': no such folder"),
        (("--text", ""), "text 0: empty"),
        (("--text", "a", "--file", "b"), "texts and --file"),
    ],
)
def test_refusals(
    fp32_bundle: Path,
    options: tuple[object, ...],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli("drift", "--bundle", fp32_bundle, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in error


def test_a_changed_bundle_is_refused(
    fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(fp32_bundle, tmp_path / "copy"))
    graph = copy / "onnx" / "model.portable.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    assert run_cli("drift", "--bundle", copy) == 3
    assert "differ from the manifest's SHA-256" in capsys.readouterr().err


# Without a bundle, whose gate would take longer than what is measured.
_PEAK = """
import resource, sys
from pathlib import Path
from export.checkpoint.reader import open_checkpoint
from export.drift.graph import BlockGraph
from export.drift.measure import Call, Subject, compare
from export.drift.reference import ReferenceNetwork
from export.drift.texts import batches
from export.gate.reference import reference_model
from export.graph.trace import trace
from export.graph.weights import Contents, write_weights
from runtimes.text.tokens import TextTokenizer

model, out = map(Path, sys.argv[1:])
checkpoint = open_checkpoint(model)
config = checkpoint.config
graph = trace(config, "float32", 4, 1024)
write_weights(out, graph.slots, Contents(checkpoint, checkpoint.adapter("base")), 1024)
(out / "model.onnx").write_bytes(graph.proto)
network = ReferenceNetwork(reference_model(checkpoint, "base"))
subject = Subject(
    network=network,
    graph=BlockGraph(out / "model.onnx", None, config.layers),
    heads=config.heads,
    has_half_sums=False,
)
tokenizer = TextTokenizer(model / "tokenizer.json", max_tokens=1024, pad_id=config.pad_id)
peaks = []
for length, tokens in batches(tokenizer, "", (), (8, 1024)).items():
    found = compare(subject, Call(length=length, tokens=tokens, inputs=tokens.inputs()))
    assert not found.findings
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


def test_more_layers_hold_no_more(tmp_path: Path) -> None:
    """What long texts add to the peak is one layer's, whether there are 2 layers or 24."""
    peaks = {}
    for layers in (2, 24):
        model = write_original(tmp_path / str(layers), replace(SIZES["small"], layers=layers))
        out = tmp_path / f"graph-{layers}"
        out.mkdir()
        command = [sys.executable, "-c", _PEAK, str(model), str(out)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
        peaks[layers] = float(ran.stdout.strip())
    # The blocks of 22 more layers, in FP32 on two sides, would be about 300 MB.
    assert peaks[24] < peaks[2] + 40, peaks
