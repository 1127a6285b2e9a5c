"""``adaptrt tune`` on a bundle, and what opens it afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.tuning.sample import Request, take_sample
from runtimes import Embedder, InputError, MissingError
from runtimes.cpu_kinds import read_cpu
from runtimes.executors import ort
from runtimes.tuned import Key, Tuned, write_choice
from tests.reference_executor import REFERENCE, ReferenceRuntime
from tests.support import listing, run_cli


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tune.json"
    monkeypatch.setenv("ADAPTRT_TUNE_FILE", str(path))
    return path


def keep(file: Path, bundle: Path, runtime: str, threads: int | None = None) -> None:
    choice = Tuned(runtime=runtime, threads=threads, texts_per_second=1.0)
    write_choice(file, Key.of(bundle, read_cpu()), choice)


def test_tuning_keeps_a_choice_outside_of_the_bundle_and_forgets_it(
    small_bundle: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(small_bundle)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Guten Tag"}\n{"text": "two"}\n{"text": "three"}\n')
    bounds = ("--max-texts", 2, "--rounds", 1)
    assert run_cli("tune", "--bundle", small_bundle, "--texts", texts, *bounds) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 texts, ")
    name, threads, *figures, memory, unit = lines[2].split()
    assert (name, threads, unit) == ("onnxruntime", str(read_cpu().cores), "GB")
    assert all(float(figure) > 0 for figure in (*figures, memory))
    assert float(memory) < 2  # one process's, not what the tests hold
    assert f"written to {file}" in lines[3]
    (entry,) = json.loads(file.read_text())["entries"]
    assert entry["choice"]["runtime"] == "onnxruntime"
    assert listing(small_bundle) == before
    assert run_cli("tune", "--bundle", small_bundle, "--forget") == 0
    assert run_cli("tune", "--bundle", small_bundle, "--forget") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{small_bundle}: forgotten",
        f"{small_bundle}: nothing was chosen here",
    ]
    assert json.loads(file.read_text())["entries"] == []


def test_tuned_executor_and_threads_are_opened(
    small_bundle: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int | None] = []
    options = ort._session_options

    def seen(count: int | None, **more: bool) -> object:
        threads.append(count)
        return options(count, **more)

    monkeypatch.setattr(ort, "_session_options", seen)
    with Embedder.load(small_bundle) as embedder:
        assert embedder.runtime.name == "onnxruntime-cpu"
    keep(file, small_bundle, "onnxruntime", 1)
    Embedder.load(small_bundle).close()
    Embedder.load(small_bundle, threads=2).close()
    Embedder.load(small_bundle, runtime="onnxruntime").close()
    assert threads == [None, 1, 2, None]


def test_tuned_executor_is_named_and_may_be_passed_over(
    small_bundle: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtimes.open import EXECUTORS

    monkeypatch.setitem(EXECUTORS, REFERENCE.name, REFERENCE)
    keep(file, small_bundle, REFERENCE.name)
    with Embedder.load(small_bundle) as tuned, Embedder.load(small_bundle, device="cpu") as placed:
        assert tuned.runtime.name == placed.runtime.name == ReferenceRuntime.name
    with pytest.raises(InputError, match="device: got 'cuda', but runtime onnxruntime runs on cpu"):
        Embedder.load(small_bundle, device="cuda")
    with Embedder.load(small_bundle, runtime="onnxruntime") as named:
        assert named.runtime.name == "onnxruntime-cpu"


def test_choice_that_cannot_be_read_or_opened_ends_in_one_line(
    small_bundle: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(file, small_bundle, "tensorrt")
    with pytest.raises((MissingError, InputError), match="tensorrt"):
        Embedder.load(small_bundle)
    file.write_text("no JSON")
    for command in (("encode", "text"), ("tune",)):
        assert run_cli(*command, "--bundle", small_bundle) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {file}: not valid JSON")
    assert run_cli("encode", "--runtime", "onnxruntime", "--bundle", small_bundle, "text") == 0


def test_errors_of_the_process_that_measures_are_told_of(small_bundle: Path) -> None:
    request = Request(
        bundle=str(small_bundle), runtime="mispelt", threads=None, task=None, texts=("a",)
    )
    with pytest.raises(Exception, match="mispelt: runtime: got 'mispelt', expected one of auto"):
        take_sample(request)
