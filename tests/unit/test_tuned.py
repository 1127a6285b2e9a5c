"""The file of what was tuned, and which executor ``auto`` is with and without an entry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtimes.auto
from runtimes.auto import choose
from runtimes.choices import Device, GraphKind, Target
from runtimes.cpu_kinds import Cpu
from runtimes.errors import InputError, MissingError
from runtimes.executors.base import Runtime
from runtimes.open import EXECUTORS, Executor, open_runtime
from runtimes.tuned import Key, Tuned, read_choice, require_tune_file, tune_file, write_choice
from tests.runtime_support import changed, make_manifest

CPU = Cpu(machine="x86_64", flags=frozenset({"avx2"}), model="A\tCPU é", cores=4)
CHOICE = Tuned(runtime="onnxruntime", threads=2, texts_per_second=10.5)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As much of a bundle as identifies it."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings" / "tune.json"
    monkeypatch.setenv("ADAPTRT_TUNE_FILE", str(path))
    monkeypatch.setattr(runtimes.auto, "read_cpu", lambda: CPU)
    return path


def keep(file: Path, bundle: Path, choice: Tuned | None = CHOICE) -> bool:
    return write_choice(file, Key.of(bundle, CPU), choice)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"ADAPTRT_TUNE_FILE": "mine.json", "HOME": "/h"}, "mine.json"),
        ({"ADAPTRT_TUNE_FILE": "", "HOME": "/h"}, "/h/.config/adaptrt/tune.json"),
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/adaptrt/tune.json"),
        ({"XDG_CONFIG_HOME": "x", "HOME": "/h"}, "/h/.config/adaptrt/tune.json"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
    ids=str,
)
def test_place_of_the_file(environment: dict[str, str], expected: str | None) -> None:
    assert tune_file(environment) == (None if expected is None else Path(expected))


def test_without_a_home_nothing_is_chosen_and_nothing_can_be_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ADAPTRT_TUNE_FILE", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert read_choice(bundle, CPU) is None
    with pytest.raises(InputError, match="HOME is not set; set it, or name a file in ADAPTRT_TUNE"):
        require_tune_file()


def test_choice_is_read_as_it_was_written(file: Path, bundle: Path) -> None:
    assert read_choice(bundle, CPU) is None
    assert keep(file, bundle) is False
    assert read_choice(bundle, CPU) == CHOICE
    assert json.loads(file.read_text())["entries"][0]["key"]["cpu"] == "ACPU "
    later = Tuned(runtime="openvino", texts_per_second=20.0)
    assert keep(file, bundle, later) is True
    assert read_choice(bundle, CPU) == later
    assert len(json.loads(file.read_text())["entries"]) == 1
    assert [path.name for path in file.parent.iterdir()] == ["tune.json"]


@pytest.mark.parametrize("change", [{"model": "another"}, {"cores": 8}], ids=str)
def test_another_machine_has_no_choice(file: Path, bundle: Path, change: dict[str, Any]) -> None:
    keep(file, bundle)
    assert read_choice(bundle, replace(CPU, flags=None)) == CHOICE
    assert read_choice(bundle, replace(CPU, **change)) is None


def test_changed_bundle_has_no_choice(file: Path, bundle: Path) -> None:
    keep(file, bundle)
    (bundle / "manifest.json").write_text('{"a": 1}')
    assert read_choice(bundle, CPU) is None
    keep(file, bundle, Tuned(runtime="openvino", texts_per_second=1.0))
    (bundle / "manifest.json").write_text("{}")
    assert read_choice(bundle, CPU) == CHOICE  # the other entry stayed


def test_forgetting_removes_one_entry(file: Path, bundle: Path) -> None:
    assert keep(file, bundle, None) is False
    assert not file.exists()
    keep(file, bundle)
    assert keep(file, bundle, None) is True
    assert read_choice(bundle, CPU) is None
    assert keep(file, bundle, None) is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "got a JSON list, expected an object"),
        ("{}", "schema: missing"),
        ('{"schema": 2}', "schema: got 2, expected"),
        ('{"schema": 1, "entries": [], "more": 1}', "more: no such entry"),
    ],
)
def test_file_in_bad_shape_is_told_of(file: Path, bundle: Path, text: str, words: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    hint = "correct it, or remove the file and run adaptrt tune again"
    for attempt in (lambda: read_choice(bundle, CPU), lambda: keep(file, bundle)):
        with pytest.raises(InputError, match=rf"tune.json: {words}.*{hint}"):
            attempt()
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("choice", "threads"), 0, r"entries\[0\].choice.threads: got 0"),
        (("choice", "runtime"), 1, r"entries\[0\].choice.runtime: got 1"),
        (("choice", "runtime"), ..., r"entries\[0\].choice.runtime: missing"),
        (("choice", "texts_per_second"), -1, r"texts_per_second: got -1"),
        (("choice", "device"), "cpu", r"entries\[0\].choice.device: no such entry"),
        (("key", "bundle"), "abc", r"entries\[0\].key.bundle: got 'abc'"),
        (("key", "cores"), "4", r"entries\[0\].key.cores: got '4'"),
    ],
)
def test_entry_in_bad_shape_is_told_of(
    file: Path, bundle: Path, at: tuple[str, ...], value: object, words: str
) -> None:
    keep(file, bundle)
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(changed(raw, ("entries", 0, *at), value)))
    with pytest.raises(InputError, match=words):
        read_choice(bundle, CPU)


def test_link_to_nothing_is_told_of(file: Path, bundle: Path) -> None:
    file.parent.mkdir()
    file.symlink_to("gone")
    with pytest.raises(InputError, match=r"tune.json: no such file"):
        read_choice(bundle, CPU)


def test_folder_without_a_manifest_is_refused(file: Path, bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest.json: no such file"):
        keep(file, bundle)


def opener(*_: object) -> Runtime:
    raise MissingError("its library is not installed")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more executors: one speaks for TARGET=tensorrt10 on a CPU, one runs on a GPU."""
    for row in (
        Executor(
            name="speaks",
            graph=GraphKind.ONNXRUNTIME,
            opener=opener,
            speaks_for=(Target.TENSORRT10,),
        ),
        Executor(
            name="gpu",
            graph=GraphKind.ONNXRUNTIME,
            opener=opener,
            device=Device.CUDA,
            speaks_for=(Target.TENSORRT,),
        ),
    ):
        monkeypatch.setitem(EXECUTORS, row.name, row)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("onnxruntime", "onnxruntime"),
        ("openvino", "openvino"),
        ("tensorrt_rtx", "onnxruntime"),
        ("tensorrt", "onnxruntime"),  # a GPU's executor speaks for it, and is not taken unasked
        ("tensorrt10", "speaks"),
    ],
)
@pytest.mark.usefixtures("rows")
def test_untuned_is_what_speaks_for_the_target_on_a_cpu(
    file: Path, bundle: Path, target: str, expected: str
) -> None:
    manifest = make_manifest(target={"name": target})
    for device in (None, "cpu"):
        chosen = choose(bundle, manifest, "auto", device=device)
        assert (chosen.executor.name, chosen.threads) == (expected, None)
    assert choose(bundle, manifest, "auto", threads=3).threads == 3
    assert choose(bundle, manifest, "auto", adapter=Path("a")).executor.name == "onnxruntime"
    assert not file.exists()


@pytest.mark.parametrize(
    ("tuned", "options", "expected"),
    [
        ("speaks", {}, ("speaks", 2)),
        ("speaks", {"threads": 1}, ("speaks", 1)),
        ("speaks", {"device": "cpu"}, ("speaks", 2)),
        ("speaks", {"device": "cuda"}, ("onnxruntime", None)),  # which then refuses the device
        ("speaks", {"adapter": Path("a")}, ("onnxruntime", None)),
        ("onnxruntime", {"adapter": Path("a")}, ("onnxruntime", 2)),
        ("gpu", {}, ("gpu", 2)),
        ("gpu", {"device": "cuda:1"}, ("gpu", 2)),
        ("gpu", {"device": "cpu", "threads": 4}, ("onnxruntime", 4)),
    ],
    ids=str,
)
@pytest.mark.usefixtures("rows")
def test_tuned_choice_is_taken_where_it_fits_what_is_given(
    file: Path, bundle: Path, tuned: str, options: dict[str, Any], expected: tuple[str, int | None]
) -> None:
    keep(file, bundle, Tuned(runtime=tuned, threads=2, texts_per_second=1.0))
    chosen = choose(bundle, make_manifest(), "auto", **options)
    assert (chosen.executor.name, chosen.threads) == expected


@pytest.mark.usefixtures("rows")
def test_named_executor_is_never_the_tuned_one(file: Path, bundle: Path) -> None:
    keep(file, bundle, Tuned(runtime="speaks", threads=2, texts_per_second=1.0))
    chosen = choose(bundle, make_manifest(), "onnxruntime")
    assert (chosen.executor.name, chosen.threads) == ("onnxruntime", None)


@pytest.mark.usefixtures("rows")
def test_missing_library_of_a_choice_is_an_error(file: Path, bundle: Path) -> None:
    keep(file, bundle, Tuned(runtime="speaks", texts_per_second=1.0))
    chosen = choose(bundle, make_manifest(), "auto")
    with pytest.raises(MissingError, match="its library is not installed"):
        open_runtime(bundle, make_manifest(), chosen.executor)


@pytest.mark.parametrize("name", ["later", "portable"])
def test_choice_of_an_executor_that_is_not_here_is_told_of(
    file: Path, bundle: Path, name: str
) -> None:
    keep(file, bundle, Tuned(runtime=name, texts_per_second=1.0))
    with pytest.raises(InputError, match=f"tune.json: runtime: got '{name}', .*adaptrt tune again"):
        choose(bundle, make_manifest(), "auto")


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("name", ["mispelt", None, 1])
def test_unknown_name_is_refused_with_those_there_are(bundle: Path, name: object) -> None:
    with pytest.raises(InputError, match=f"runtime: got {name!r}, expected one of auto, onnxrunti"):
        choose(bundle, make_manifest(), name)


@pytest.mark.usefixtures("file")
def test_unknown_device_is_refused(bundle: Path) -> None:
    with pytest.raises(InputError, match="device: got 'gpu', expected cpu, cuda"):
        choose(bundle, make_manifest(), "auto", device="gpu")
