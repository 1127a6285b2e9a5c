"""``adaptrt inspect`` on a bundle whose engine was built for sm89: table, JSON, page, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from export.engines.gpus import GPUS
from export.engines.plan_file import read_plans, write_plans
from export.engines.predict import EFFICIENCY, PREDICTED
from tests.support import edit_json, run_cli


def inspected(bundle: Path, capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert run_cli("inspect", "--bundle", bundle, *options) == 0
    return capsys.readouterr().out


def test_table_shows_one_layer_what_differs_and_what_runs_once(
    fp16_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = inspected(fp16_bundle, capsys).splitlines()
    assert lines[0].endswith("classification-fp16: FP16, merged, classification")
    assert "  products: 24 Half×Half" in lines
    assert "  rules of the plan: kept" in lines
    alike, once = lines.index("  layer 0 (so are 1, 2, 3, 4)"), lines.index("  once a call")
    products = [line for line in lines[alike:once] if line.startswith("    matrix products")]
    assert len(products) == 4
    assert "  layer 5 differs: 10 launches, among them" in lines


def test_json_counts_what_the_table_shows(
    fp16_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(batch: int, tokens: int) -> Any:
        options = ("--json", "--batch", batch, "--tokens", tokens)
        (engine,) = json.loads(inspected(fp16_bundle, capsys, *options))["engines"]
        return engine

    short, long = of(1, 128), of(2, 128)
    assert short["products"] == {"Half×Half": 24}
    assert (short["engine"], short["launches"]) == ("encoder.sm89.engine", len(short["kernels"]))
    layers = Counter(kernel["layer"] for kernel in short["kernels"])
    assert layers[1] == short["launches_per_layer"]
    # 2 · tokens · weights: 256 · (768 + 256) + 2 · 256 · 1024 in each of six layers
    products = 2 * 128 * 6 * (256 * (768 + 256) + 2 * 256 * 1024)
    assert short["flops"]["Half×Half"] == products
    assert long["flops"]["Half×Half"] == 2 * products
    assert short["bytes"] < long["bytes"]


def test_times_are_predicted_and_say_so(
    fp16_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = inspected(fp16_bundle, capsys).splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("  predicted, not measured: "))
    assert lines[start].endswith(f"({EFFICIENCY.version})")
    shown = [line.split()[0] for line in lines[start + 1 : start + 1 + len(GPUS)]]
    assert shown == [gpu.split()[0] for gpu in GPUS]
    (engine,) = json.loads(inspected(fp16_bundle, capsys, "--json"))["engines"]
    assert engine["predicted"]["what"] == PREDICTED
    times = engine["predicted"]["milliseconds"]
    assert set(times) == set(GPUS)
    assert times["H100 SXM"] < times["L4"] < times["Orin NX 16GB"]


def test_page_opens_anywhere(
    fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "plan.html"
    assert inspected(fp16_bundle, capsys, "--html", page) == f"{page}\n"
    text = page.read_text()
    assert "predicted, not measured" in text
    assert "fused-attention: one fused attention kernel a layer" in text


def test_engines_that_execute_the_same_are_shown_once(
    fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(fp16_bundle, tmp_path / "bundle"))
    (plans,) = read_plans(bundle / "plan.json").values()
    write_plans(bundle, {f"encoder.{gpu}.engine": plans for gpu in ("sm89", "sm120")})
    manifest = json.loads((bundle / "manifest.json").read_text())
    engine = next(entry for entry in manifest["artifacts"] if entry["gpu"])
    other = engine | {"path": "encoder.sm120.engine", "gpu": "sm120"}
    edit_json(bundle / "manifest.json", artifacts=[*manifest["artifacts"], other])
    both = "encoder.sm89.engine and encoder.sm120.engine (tensorrt_rtx"
    assert inspected(bundle, capsys).count(both) == 1
    assert inspected(bundle, capsys, "--gpu", "sm120").count("\nencoder.") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpu", "sm90"), "GPU: got sm90, expected one of sm89"),
        (("--batch", 33), "BATCH: got 33, expected 1 to 32, the bundle's"),
        (("--tokens", 0), "TOKENS: got 0, expected 1 to 8192, the bundle's"),
    ],
    ids=["gpu", "batch", "tokens"],
)
def test_call_that_the_bundle_does_not_take_is_refused(
    fp16_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    assert run_cli("inspect", "--bundle", fp16_bundle, *options) == 2
    assert message in capsys.readouterr().err


def test_bundle_without_a_plan_says_how_to_get_one(
    small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("inspect", "--bundle", small_bundle) == 2
    assert "has no plan.json, which bundles with engines have" in capsys.readouterr().err


def test_measured_times_of_another_size_are_refused(
    fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "gpu-check.json"
    measured.write_text(json.dumps({"gpu": {"name": "x"}, "timed_size": "full", "rows": []}))
    options = ("--html", tmp_path / "plan.html", "--measured", measured)
    assert run_cli("inspect", "--bundle", fp16_bundle, *options) == 2
    assert "timed_size: got full" in capsys.readouterr().err
    assert not (tmp_path / "plan.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--measured", "gpu-check.json"), "--measured: is for the page; add --html FILE"),
        (("--html", "/nowhere/plan.html"), "--html: '/nowhere': no such folder"),
    ],
    ids=["measured", "html"],
)
def test_options_that_cannot_be_followed_are_refused(
    fp16_bundle: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], message: str
) -> None:
    assert run_cli("inspect", "--bundle", fp16_bundle, *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_looking_inside_loads_nothing_heavy() -> None:
    script = (
        "import sys, export.cli, export.report.inspection\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'transformers', 'tensorrt',\n"
        "         'tensorrt_rtx', 'tensorrt_rtx_bindings'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
