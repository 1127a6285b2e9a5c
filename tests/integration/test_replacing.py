"""What a build may replace: refused before any work, with what would be lost and the ways out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import export.build.calibrations  # before anything is patched: it binds what `measure` is
import export.build.pipeline
import export.quantisation.calibrate
from adaptrt import Embedder, InputError
from export.bundle.staging import check_hashes
from export.checkpoint.identity import model_sha256
from export.checkpoint.reader import open_checkpoint
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import Precision, Target
from runtimes.manifest import make_artifact, read_manifest
from tests.support import build, edit_json, listing, run_cli
from tests.zoo import write_original


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing and measuring are the first things that take long."""
    for module, name in (
        (export.build.pipeline, "trace"),
        (export.quantisation.calibrate, "measure"),
    ):
        monkeypatch.setattr(module, name, lambda *arguments: pytest.fail("work was begun"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the bundle of :func:`engine` goes."""
    (tmp_path / "out" / "small").mkdir(parents=True)
    return tmp_path / "out" / "small" / "separation-fp32-onnxruntime"


@pytest.fixture
def former(place: Path, small_bundle: Path) -> Path:
    """A bundle that is there already."""
    return Path(shutil.copytree(small_bundle, place))


def engine(place: Path, model: Path, *more: object) -> int:
    out = place.parents[1]
    return build(out, "--model", model, "--task", "separation", *more)


def refused(place: Path, capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    """The one line; everything is as before."""
    before = listing(place.parents[1])
    capsys.readouterr()
    assert run() == 2
    assert listing(place.parents[1]) == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: OUT: ") or "expected a file or nothing" in error
    return error


def link(place: Path) -> None:
    place.symlink_to(place.parent)


def file(place: Path) -> None:
    place.write_text("precious")


def folder(place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("precious")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("make", [link, file, folder], ids=lambda make: make.__name__)
def test_what_is_no_bundle_is_refused_before_any_work(
    place: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
) -> None:
    make(place)
    error = refused(place, capsys, lambda: engine(place, small_folder))
    assert "is no bundle of ours, so it is not replaced" in error


@pytest.mark.usefixtures("no_work")
def test_places_of_all_tasks_are_looked_at_before_the_first_is_built(
    place: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(place.with_name("text-matching-fp32-onnxruntime"))
    error = refused(place, capsys, lambda: engine(place, small_folder, "--task", "all"))
    assert "text-matching-fp32-onnxruntime is no bundle of ours" in error


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("make", [link, folder], ids=lambda make: make.__name__)
@pytest.mark.parametrize("command", ["calibrate", "engine"])
def test_what_is_no_calibration_is_refused_before_any_work(
    place: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    make: Callable[[Path], None],
) -> None:
    (place.parent / "calibration").mkdir()
    make(place.parent / "calibration" / "text-matching.json")
    options = ["--model", small_folder, "--task", "all", "--out", place.parents[1]]
    if command == "engine":
        options += ["--target", "onnxruntime", "--precision", "int8"]
    error = refused(place, capsys, lambda: run_cli(command, *options))
    assert "text-matching.json is " in error
    if make is link:
        assert "is a link" in error


@pytest.mark.usefixtures("no_work")
def test_read_only_place_is_found_before_a_calibration(
    tmp_path: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the system answers on a volume mounted read-only; the tests may run as root."""
    monkeypatch.setattr("runtimes.files.os.access", lambda path, mode: path != tmp_path)
    assert run_cli("calibrate", "--model", small_folder, "--out", tmp_path / "out") == 2
    assert f"{tmp_path} is read-only; name another place" in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
def test_someone_elses_json_is_no_calibration(
    place: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.parent / "calibration" / "separation.json"
    path.parent.mkdir()
    path.write_text('{"precious": true}')
    options = ("--model", small_folder, "--task", "separation", "--out", place.parents[1])
    assert run_cli("calibrate", *options) == 2
    assert "separation.json: schema None" in capsys.readouterr().err
    assert path.read_text() == '{"precious": true}'


def engine_file(bundle: Path, gpu: str, **more: Any) -> None:
    """An engine that the manifest records, as if it had been built."""
    name = f"encoder.{gpu}.engine"
    (bundle / name).write_bytes(b"engine")
    entry = replace(
        make_artifact(bundle, name, Target.TENSORRT_RTX, precision=Precision.FP32, gpu=gpu), **more
    )
    artifacts = [asdict(a) for a in (*read_manifest(bundle).artifacts, entry)]
    edit_json(bundle / MANIFEST_FILE, artifacts=artifacts)


# What the manifest of the bundle that is there says, and how the refusal names it.
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "task": (
        {"task": "base", "tasks": ["base"], "prefixes": {"base": ""}, "output_ranges": {}},
        "TASK='base'",
    ),
    "adapter": (
        {
            "adapter": "switchable",
            "layout": "flat",
            "prefixes": {"separation": "", "base": ""},
            "output_ranges": {},
        },
        "ADAPTER='switchable'",
    ),
    "slot": ({"adapter": "slot", "slot_rank": 8, "layout": "flat"}, "ADAPTER='slot', RANK=8"),
    "head": ({"head": "chunks", "layout": "flat"}, "HEAD='chunks'"),
    "precision": ({"precision": "fp16"}, "PRECISION='fp16'"),
    "target": ({"target": {"name": "tensorrt_rtx", "requested": "auto"}}, "TARGET='tensorrt_rtx'"),
    "batch": ({"max_batch": 8}, "MAX_BATCH=8"),
    "tokens": ({"max_tokens": 512}, "MAX_TOKENS=512"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("other", OTHER)
def test_bundle_built_with_other_choices_is_not_replaced(
    former: Path, small_folder: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    """Under one NAME, or built by a version that had shorter names."""
    changes, words = OTHER[other]
    edit_json(former / MANIFEST_FILE, **changes)
    error = refused(former, capsys, lambda: engine(former, small_folder))
    assert f"separation-fp32-onnxruntime was built with {words}, which this build" in error
    assert error.endswith("choose another place (NAME=... or OUT=...), or delete it")


@pytest.mark.usefixtures("no_work")
def test_engines_built_on_a_device_are_not_lost(
    former: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_file(former, "sm87", kind="tensorrt")
    error = refused(former, capsys, lambda: engine(former, small_folder))
    assert "holds engines for sm87, which this build would replace; choose another" in error


@pytest.mark.usefixtures("no_work")
def test_engines_for_other_gpus_are_not_lost(
    place: Path, small_bundle: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtx = place.with_name("separation-fp32")
    shutil.copytree(small_bundle, rtx)
    for gpu in ("sm86", "sm89"):
        engine_file(rtx, gpu)
    edit_json(rtx / MANIFEST_FILE, target={"name": "tensorrt_rtx", "requested": "auto"})
    options = ("--target", "tensorrt_rtx", "--gpu", "sm89,sm120")
    error = refused(rtx, capsys, lambda: engine(rtx, small_folder, *options))
    assert "separation-fp32 holds engines for sm86, which this build would replace" in error
    assert "; add GPU=sm86,sm89,sm120, choose another place (NAME=... or OUT=...)" in error


@pytest.mark.usefixtures("no_work")
def test_two_builds_of_one_name_do_not_replace_each_other(
    former: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = former.rename(former.with_name("mine"))
    options = ("--name", "mine", "--precision", "fp16")
    error = refused(named, capsys, lambda: engine(named, small_folder, *options))
    assert "small/mine was built with PRECISION='fp32', which" in error


def test_same_choices_replace_also_from_a_changed_checkpoint_and_under_a_name(
    former: Path, tmp_path: Path
) -> None:
    """The first is the checkpoint's own name; the second build's folder is named."""
    changed = write_original(tmp_path / "changed" / "small", seed=1)
    named = Path(shutil.copytree(former, former.with_name("mine")))
    (named / "onnx" / "model.onnx_data").unlink()  # damaged, so better built again
    for bundle, options in ((former, ()), (named, ("--name", "mine"))):
        assert engine(bundle, changed, *options) == 0
        manifest = check_hashes(bundle)
        assert manifest.model.sha256 == model_sha256(open_checkpoint(changed))
    assert {p.name for p in former.parent.iterdir()} == {former.name, "mine"}


@pytest.mark.usefixtures("no_work")
def test_name_is_refused_for_several_bundles(
    place: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine(place, small_folder, "--name", "x", "--task", "all") == 2
    assert "NAME: TASK=all builds several bundles" in capsys.readouterr().err


def test_other_tasks_bundle_is_found_beside_under_the_same_kind_of_name(
    former: Path, query_bundle: Path
) -> None:
    def words(bundle: Path) -> str:
        with (
            Embedder.load(bundle) as embedder,
            pytest.raises(InputError, match="this bundle has separation") as refusal,
        ):
            embedder.encode(["x"], task="retrieval.query")
        return str(refusal.value)

    build_it = "build one with `make engine TASK=retrieval.query`"
    assert words(former).endswith(build_it)
    sibling = shutil.copytree(query_bundle, former.with_name(query_bundle.name))
    assert words(former).endswith(f"; load {sibling}")
    assert words(former.rename(former.with_name("mine"))).endswith(build_it)
