"""A run of the benchmark: who is started when, what is written, and what is said of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import cases, ceilings, contenders, preparation, reports, run, summary, tables
from tests.bench.contenders import CONTENDERS
from tests.bench.guard import guarded
from tests.bench.summary import Samples

FAST = {"2048³": 100.0, "512×1024×4096": 90.0}
CEILINGS = {"FP32 ONNX Runtime": FAST, "BF16 oneDNN": FAST, "INT8 OpenVINO": FAST}


def sample(case: str, seconds: float, **more: object) -> dict[str, Any]:
    usual = {"tokens": 8, "peak": 3e9, "loaded": 2e9, "thrown_away": 0, "quiet": True}
    return {"case": case, "seconds": seconds, **usual, **more}


def about(*vector: float) -> dict[str, Any]:
    return {"loaded": 2e9, "vectors": [list(vector)]}


def plan(work: Path, *names: str, rounds: int = 2, seed: int = 0) -> run.Plan:
    return run.Plan(
        work=work,
        rounds=rounds,
        seed=seed,
        contenders=names,
        cases=["1x128"],
        corpus_texts=8,
        timeout=9.0,
    )


Asked = list[tuple[str, list[str]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What workers were asked for; each says that it took a second, PyTorch BF16 far more."""
    found: Asked = []

    def worker(
        _plan: run.Plan, contender: str, wanted: Sequence[str]
    ) -> tuple[list[dict[str, Any]], str | None]:
        found.append((contender, list(wanted)))
        seconds = 99.0 if contender == "PyTorch BF16" else 1.0
        return [about(1.0, 0.0), *(sample(case, seconds) for case in wanted)], None

    monkeypatch.setattr(run, "run_worker", worker)
    monkeypatch.setattr(ceilings, "measure", lambda _: CEILINGS)
    monkeypatch.setattr(summary, "gemm_share", lambda *_: 0.5)
    return found


def test_a_run_times_each_contender_where_it_belongs_and_says_where_it_ran(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run, "missing", lambda name: "none" if name == "naive ONNX export" else None
    )
    monkeypatch.setattr(run, "prepare", lambda *_: {"adaptrt INT8": "not built"})
    monkeypatch.setattr(run, "save", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["run", "--out", str(tmp_path), "--corpus-texts", "9"])
    run.main()
    left = {n: list(c.cases) for n, c in CONTENDERS.items()}
    del left["naive ONNX export"], left["adaptrt INT8"]
    assert dict(asked[: len(left)]) == left
    report = json.loads((tmp_path / "mid" / "bench.json").read_text())
    assert report["machine"].endswith("cores")
    text = (tmp_path / "mid" / "bench.md").read_text()
    assert text == tables.every(report) + "\n"
    assert "Not run: naive ONNX export: none; adaptrt INT8: not built." in text
    assert "thrown away and taken again, at most 2 times: none was." in text
    assert "FP32 ONNX Runtime 100 / 90" in text
    assert "| 50% of BF16 |" in text
    assert reports.extra_gb(report, report["rows"][0]) == 1.0
    stored = cases.load(tmp_path / "mid" / "cases.json")
    assert [case.name for case in stored] == list(cases.CASES)
    assert (stored[0].tokens, len(stored[3].texts)) == (128, 8)
    assert len(stored[4].texts) == report["corpus_texts"] == 9


def test_each_round_has_an_order_of_its_own_that_the_seed_gives_again(tmp_path: Path) -> None:
    orders = [plan(tmp_path, *CONTENDERS, seed=seed).order(n) for seed in (0, 1) for n in (0, 1)]
    assert all(sorted(order) == sorted(CONTENDERS) for order in orders)
    assert len({tuple(order) for order in [*orders, list(CONTENDERS)]}) == 5
    assert plan(tmp_path, *CONTENDERS, seed=1).order(1) == orders[3]


def test_slow_cases_run_in_the_first_round_only(asked: Asked, tmp_path: Path) -> None:
    samples = run.measure(plan(tmp_path, "PyTorch BF16", "adaptrt"))
    assert sorted(asked) == [("PyTorch BF16", ["1x128"]), *[("adaptrt", ["1x128"])] * 2]
    (slow, ours) = summary.rows(samples)
    assert slow["seconds_by_round"] == {"0": 99.0}
    assert ours["seconds_by_round"] == {"0": 1.0, "1": 1.0}
    assert slow["times_ours"] == 99.0
    assert len(samples.order) == len(samples.ceilings) == 2


def test_ratios_are_of_the_same_round() -> None:
    samples = Samples()
    samples.add("adaptrt", 0, [about(1.0), sample("1x128", 1.0)])
    samples.add("adaptrt", 1, [about(1.0), sample("1x128", 4.0)])
    samples.add("PyTorch BF16", 1, [about(1.0), sample("1x128", 8.0)])
    samples.add("adaptrt INT8", 2, [about(1.0), sample("1x128", 1.0)])
    rows = {row["contender"]: row for row in summary.rows(samples)}
    assert rows["PyTorch BF16"]["times_ours_range"] == [2.0, 2.0]
    assert "times_ours" not in rows["adaptrt INT8"]


def test_a_contender_that_computes_something_else_is_seen() -> None:
    samples = Samples()
    samples.add("adaptrt", 0, [about(1.0, 0.0)])
    samples.add("PyTorch BF16", 0, [about(0.0, 1.0)])
    samples.add("adaptrt switchable", 0, [about(0.0, 1.0)])  # another task's vectors
    assert summary.agreement(samples) == ("adaptrt", {"PyTorch BF16": 0.0, "adaptrt": 1.0})


def test_what_was_disturbed_is_counted_below_the_table() -> None:
    samples = Samples()
    rows = [sample("1x128", 1.0, thrown_away=2, quiet=False), sample("1x128", 1.0, thrown_away=1)]
    samples.add("adaptrt", 0, [about(1.0), *rows])
    (row,) = summary.rows(samples)
    assert (row["thrown_away"], row["disturbed"]) == (3, 1)
    text = tables.every(reports.load("zen4-mid") | {"rows": [row]})
    assert "at most 2 times: adaptrt 3. Disturbed each time" in text
    assert "the least disturbed kept: adaptrt 1." in text


def test_an_environment_that_was_not_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "ROOT", tmp_path)
    assert preparation.missing("adaptrt") is None
    assert "openvino" in str(preparation.missing("OpenVINO naive INT8"))  # NNCF is there
    reason = preparation.missing("sentence-transformers ONNX")
    assert reason == ".venv-clients/optimum is not there: make .venv-clients/optimum/.installed"
    python = tmp_path / ".venv-clients" / "optimum" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert preparation.missing("sentence-transformers ONNX") is None


def test_a_worker_says_what_it_did_before_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another environment's Python; here one that prints and fails."""
    python = tmp_path / ".venv-clients" / "optimum" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho a warning\necho '{\"loaded\": 1}'\necho why >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(contenders, "ROOT", tmp_path)
    lines, reason = run.run_worker(plan(tmp_path), "sentence-transformers ONNX", ["1x128"])
    assert (lines, reason) == ([{"loaded": 1}], "why")


def test_groups_are_taken_apart_and_unknown_names_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert contenders.named("adaptrt,targets") == ["adaptrt", *_targets_without_it()]
    monkeypatch.setattr(sys, "argv", ["run", "--out", "x", "--only", "adaptrt,nobody"])
    with pytest.raises(SystemExit):
        run.main()
    assert "'nobody': expected one of" in capsys.readouterr().err


def _targets_without_it() -> list[str]:
    return [name for name in contenders.GROUPS["targets"] if name != "adaptrt"]


def test_a_ceiling_is_of_the_fastest_library_in_a_precision() -> None:
    found = {"BF16 oneDNN": FAST, "BF16 OpenVINO": FAST | {"2048³": 120.0}, "INT8 oneDNN": FAST}
    assert ceilings.highest(found, "BF16") == ("BF16 OpenVINO", 120.0)
    assert ceilings.highest(found, "FP32") is None
    three = [{"BF16 oneDNN": {"2048³": s, "512×1024×4096": 1.0}} for s in (3.0, 1.0, 2.0)]
    assert ceilings.medians(three)["BF16 oneDNN"]["2048³"] == 2.0
    assert {precision for precision, _ in ceilings.PRODUCTS} == {
        contender.precision for contender in CONTENDERS.values()
    }


@pytest.mark.parametrize("key", ceilings.PRODUCTS, ids=" ".join)
def test_a_ceilings_product_is_the_product(key: tuple[str, str]) -> None:
    """Of ones, so that every entry is the length of the summed axis."""
    if key[1] == "OpenVINO":
        pytest.importorskip("openvino")
    result: Any = ceilings.PRODUCTS[key](16, 32, 48)()
    result = result[0] if isinstance(result, list) or hasattr(result, "keys") else result
    result = result.float().numpy() if hasattr(result, "numpy") else result
    assert result.shape == (16, 48)
    assert abs(result - 32).max() < 0.2


def test_a_sample_is_timed() -> None:
    assert guarded(lambda: sum(range(200_000))).seconds > 0
