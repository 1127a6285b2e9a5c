"""Publishing beside other builds: live ones, dead ones, and things that are no bundle."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import export.bundle.publish
from export.bundle.exchange import exchange
from export.bundle.staging import check_hashes, staging, write_json
from export.cli import main
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import FileKind
from runtimes.errors import InputError
from runtimes.files import replacing
from runtimes.manifest import make_artifact, read_manifest
from tests.support import edit_json, listing, make_manifest

ROOT = Path(__file__).parents[2]
# A build in a process of its own: its folder is a copy of a bundle that is there. ``kill`` dies as
# a container does; ``step`` is called before, between and after the renames.
BUILD = """
import os, shutil, signal, sys
from pathlib import Path
import export.bundle.publish as publish
from export.bundle.staging import staging

source, final, mode, point = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def copies():
    with staging(final) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        if point == "staged": kill()
        if point == "wait": print("ready", flush=True); sys.stdin.readline()

if mode == "renames":
    publish.exchange = lambda first, second: False
put, rename = publish._Claim.publish, Path.rename

def killed_put(claim):
    if point == "before": kill()
    put(claim)
    if point == "after": kill()

def killed_rename(path, target):
    done = rename(path, target)
    if point == "between" and ".former-" in Path(target).name: kill()
    return done

publish._Claim.publish, Path.rename = killed_put, killed_rename
for _ in range(40 if point == "often" else 1):
    copies()
"""
MODES = ["exchange", "renames"]
mode = pytest.mark.parametrize("mode", MODES)


def build(source: Path, final: Path, mode: str, point: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, source, final, mode, point],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def fill(folder: Path, text: str = "weights") -> Path:
    """The smallest complete bundle."""
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(text)
    artifacts = (make_artifact(folder, "weights", FileKind.WEIGHTS),)
    write_json(folder / MANIFEST_FILE, make_manifest(artifacts=artifacts).to_json())
    return folder


def weights(bundle: Path) -> str:
    """What the bundle holds, proven whole."""
    check_hashes(bundle)
    return (bundle / "weights").read_text()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "newer", "newer")


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A bundle that is there already, alone in its folder."""
    (tmp_path / "model").mkdir()
    return fill(tmp_path / "model" / "task-fp32", "former")


def names(final: Path) -> list[str]:
    return sorted(p.name for p in final.parent.iterdir())


def publish(final: Path, text: str = "newest") -> None:
    with staging(final) as folder:
        fill(folder, text)


def link_to_nothing(place: Path) -> None:
    place.symlink_to("nowhere")


def link_to_a_bundle(place: Path) -> None:
    place.symlink_to(fill(place.parent.parent / "elsewhere"))


def file(place: Path) -> None:
    place.write_text("precious")


def empty_folder(place: Path) -> None:
    place.mkdir()


def folder_of_others(place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("precious")


def manifest_of_others(place: Path) -> None:
    folder_of_others(place)
    (place / MANIFEST_FILE).write_text('{"name": "my web extension", "manifest_version": 3}')


def no_json(place: Path) -> None:
    folder_of_others(place)
    (place / MANIFEST_FILE).write_bytes(b"\xff\x00")


def manifest_that_is_a_folder(place: Path) -> None:
    folder_of_others(place)
    (place / MANIFEST_FILE).mkdir()


def manifest_of_another_schema(place: Path) -> None:
    edit_json(fill(place) / MANIFEST_FILE, schema=7)


FOREIGN = [
    link_to_nothing,
    link_to_a_bundle,
    file,
    empty_folder,
    folder_of_others,
    manifest_of_others,
    no_json,
    manifest_that_is_a_folder,
    manifest_of_another_schema,
]
foreign = pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)


@foreign
@pytest.mark.parametrize("early", [True, False])
def test_what_is_no_bundle_is_never_replaced(
    tmp_path: Path, make: Callable[[Path], None], early: bool
) -> None:
    """Neither what was there before the build nor what came while it ran."""
    final = tmp_path / "model" / "task-fp32"
    final.parent.mkdir()
    if early:
        make(final)
    entered, before = False, listing(tmp_path)
    with pytest.raises(InputError, match=r"OUT: .*task-fp32 is no bundle of ours") as refusal:  # noqa: SIM117, PT012
        with staging(final) as folder:
            entered = True
            fill(folder)
            make(final)
            before = {k: v for k, v in listing(tmp_path).items() if "/." not in k}
    assert entered is not early
    assert "NAME=... or OUT=..." in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert listing(tmp_path) == before
    assert final.is_symlink() == make.__name__.startswith("link")


def test_damaged_bundle_is_one_and_is_replaced(final: Path) -> None:
    (final / "weights").unlink()
    publish(final)
    assert weights(final) == "newest"


@pytest.mark.parametrize(
    "token",
    [str(os.getpid()), "1", "4194304", "0123456789abcdef"],
    ids=["own", "first", "greatest", "no-number"],
)
def test_leftovers_nobody_holds_are_removed_whatever_process_has_their_number(
    final: Path, token: str
) -> None:
    """A container's main process is number 1 in each of them, so a dead one's number is alive."""
    fill(final.with_name(f".{final.name}.staging-{token}"))
    fill(final.with_name(f".{final.name}.former-{token}"))
    publish(final)
    assert names(final) == [final.name]
    assert weights(final) == "newest"


def test_other_bundles_leftovers_and_files_like_them_are_left_alone(final: Path) -> None:
    others = [f".{final.name}-onnxruntime.staging-1", f".{final.name}.staging-notes", ".staging-1"]
    for name in others:
        fill(final.with_name(name))
    publish(final)
    assert names(final) == sorted([*others, final.name])


@pytest.mark.parametrize("point", ["staged", "before", "after"])
def test_killed_build_leaves_a_whole_bundle_and_nothing_behind_after_the_next(
    source: Path, final: Path, point: str
) -> None:
    process = build(source, final, "exchange", point)
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert weights(final) == ("newer" if point == "after" else "former")
    assert len(names(final)) > 1
    publish(final)
    assert weights(final) == "newest"
    assert names(final) == [final.name]


def test_build_killed_between_two_renames_says_where_the_former_bundle_is(
    source: Path, final: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only where the file system cannot exchange folders; the advice, taken literally, helps."""
    process = build(source, final, "renames", "between")
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert not final.exists()
    assert main(["verify", "--bundle", str(final)]) == 2
    error = capsys.readouterr().err
    assert "a build was killed while it replaced it" in error
    command = error.split("`")[1]
    assert command.startswith("mv ")
    subprocess.run(command, shell=True, check=True)
    assert weights(final) == "former"


def test_build_killed_between_two_renames_is_mended_by_the_next_even_if_that_fails(
    source: Path, final: Path
) -> None:
    process = build(source, final, "renames", "between")
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    with pytest.raises(RuntimeError), staging(final):
        raise RuntimeError("this build fails too")
    assert weights(final) == "former"
    assert names(final) == [final.name]


@mode
def test_live_build_of_the_same_bundle_keeps_its_folder_and_ends(
    source: Path, final: Path, mode: str
) -> None:
    process = build(source, final, mode, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    publish(final)
    assert weights(final) == "newest"
    assert any(".staging-" in name for name in names(final))
    process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert weights(final) == "newer"  # the last one
    assert names(final) == [final.name]


@mode
def test_simultaneous_builds_all_end_and_one_of_them_is_there_whole(
    source: Path, final: Path, tmp_path: Path, mode: str
) -> None:
    """Two processes that publish 40 times each, and a reader in between."""
    other = fill(tmp_path / "other", "other")
    processes = [build(folder, final, mode, "often") for folder in (source, other)]
    absent = 0
    while any(process.poll() is None for process in processes):
        absent += not (final / MANIFEST_FILE).is_file()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    assert weights(final) in ("newer", "other")
    assert names(final) == [final.name]
    if mode == "exchange":
        assert absent == 0


def test_build_that_ends_puts_nothing_between_the_renames_of_another(
    final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is empty for a moment then; a former bundle there made the other build fail."""
    release = export.bundle.publish._Claim.release

    def while_another_renames(claim: export.bundle.publish._Claim) -> None:
        if claim.token == export.bundle.publish._TURN:
            release(claim)
            return
        newest = final.rename(final.with_name("newest"))
        release(claim)
        assert not final.exists()
        newest.rename(final)

    monkeypatch.setattr(export.bundle.publish, "exchange", lambda first, second: False)
    monkeypatch.setattr(export.bundle.publish._Claim, "release", while_another_renames)
    publish(final)
    assert weights(final) == "newest"
    assert names(final) == [final.name]


def test_last_rename_that_fails_puts_the_former_bundle_back(
    final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".staging-" in self.name:
            raise OSError(errno.EIO, "disk trouble")
        return rename(self, target)

    monkeypatch.setattr(export.bundle.publish, "exchange", lambda first, second: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="disk trouble"):
        publish(final)
    assert weights(final) == "former"
    assert names(final) == [final.name]


def test_exchange_swaps_two_folders_or_says_that_it_cannot(tmp_path: Path, final: Path) -> None:
    other = fill(tmp_path / "other", "other")
    if not exchange(final, other):
        pytest.skip("this file system cannot exchange folders")
    assert (weights(final), weights(other)) == ("other", "former")
    with pytest.raises(FileNotFoundError):
        exchange(final, tmp_path / "absent")
    inside = other / "inside"
    inside.mkdir()
    assert exchange(other, inside) is False  # EINVAL, what file systems without it say
    assert inside.is_dir()


def test_bundle_may_be_read_by_those_the_umask_allows(final: Path) -> None:
    publish(final)
    umask = os.umask(0)
    os.umask(umask)
    assert final.stat().st_mode & 0o777 == 0o777 & ~umask


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Two writers of one process stand for two containers whose processes have one number."""
    path = tmp_path / "calibration.json"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert names(path) == [path.name]


@pytest.mark.parametrize("make", [link_to_nothing, empty_folder, folder_of_others])
def test_only_files_are_replaced_by_files(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "calibration.json"
    make(place)
    before = listing(tmp_path)
    with pytest.raises(InputError, match="expected a file or nothing"), replacing(place):
        pytest.fail("begun")
    assert listing(tmp_path) == before


def test_file_cannot_be_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "calibration").write_text("precious")
    path = tmp_path / "calibration" / "task.json"
    with (
        pytest.raises(InputError, match=r"task\.json: .*calibration is no folder"),
        replacing(path),
    ):
        pytest.fail("begun")


def test_hint_is_given_for_the_bundle_that_is_missing_alone(final: Path) -> None:
    final.rename(final.with_name(f".{final.name}.former-12ab"))
    with pytest.raises(InputError, match=r"mv .*\.former-12ab .*task-fp32`"):
        read_manifest(final)
    with pytest.raises(InputError, match="prints where it wrote"):
        read_manifest(final.with_name("task-fp16"))


def test_lock_that_was_cleared_away_before_it_was_taken_is_none(
    final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is gone, so two builds could hold locks of one name."""
    flock = fcntl.flock

    def late(handle: int, how: int) -> None:
        Path(f"/proc/self/fd/{handle}").readlink().unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert export.bundle.publish._Claim.take(final, "12ab") is None
    assert names(final) == [final.name]


def test_waiting_for_another_builds_turn_ends_with_it(final: Path) -> None:
    claim = export.bundle.publish._Claim.take(final, "0")
    assert claim is not None
    thread = threading.Thread(target=publish, args=(final,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    claim.release()
    thread.join(30)
    assert weights(final) == "newest"
