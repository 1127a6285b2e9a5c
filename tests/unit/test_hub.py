"""What is loaded from a hub and what a build says where it cannot be: against a local server."""

from __future__ import annotations

import io
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

import export.checkpoint.hub_client
from export.checkpoint.hub_client import connection_failure
from export.checkpoint.source import resolve
from export.console.progress import show_on_stderr
from runtimes.errors import InputError
from tests.hub_server import FIRST, SECOND, Fault, Hub, Repository, files_of, serve_hub
from tests.support import listing

MODEL = "acme/small"
TOKEN = "hf_aTokenThatNobodyMayRead"
ADAPTER = {"separation/adapter_config.json": b"{}", "separation/adapter_model.safetensors": b"a"}
UNWANTED = {
    "modeling_lora.py": b"import os",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
    "onnx/model.safetensors": b"x",
    "separation/adapter_model.bin": b"pickle",
    "x.safetensors": b"",
    "1_Pooling/config.json": b"{}",
    "tokenizer.json.py": b"",
    "a/b/adapter_model.safetensors": b"x",
}


@pytest.fixture
def hub(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, that huggingface_hub takes for its own, and an empty cache."""
    show_on_stderr()  # what the command line does
    with serve_hub() as served:
        served.repositories[MODEL] = Repository({FIRST: files_of(small_folder)})
        for name, value in {
            "ENDPOINT": served.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": served.endpoint
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": False,
            "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses"),
            "DOWNLOAD_CHUNK_SIZE": 1 << 18,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's tries
        close_session()
        yield served
        close_session()


def refused(model: str = MODEL, revision: str | None = None) -> str:
    """The error, which is one line without the token."""
    with pytest.raises(InputError) as caught:
        resolve(model, revision)
    text = str(caught.value)
    assert text.isprintable()
    assert TOKEN not in text
    return text


def blobs(tmp_path: Path) -> list[str]:
    """What the cache holds of files' bytes, finished or not."""
    return [name for name in listing(tmp_path / "cache") if "/blobs/" in name]


def test_only_the_files_that_are_read_are_loaded(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories[MODEL].commits[FIRST]
    wanted = files | ADAPTER
    hub.repositories[MODEL].commits[FIRST] = wanted | UNWANTED
    source = resolve(MODEL, None)
    assert sorted(hub.loaded()) == sorted(wanted)
    assert files_of(source.folder) == wanted
    assert source.folder.is_relative_to(tmp_path)


def test_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Hub) -> None:
    hub.xet = False  # the redirect is then known before, and its address asked directly
    resolve(MODEL, None)
    hub.xet = True
    hub.repositories["acme/other"] = hub.repositories[MODEL]
    resolve("acme/other", None)
    sent = {(r.host, r.headers.get("Authorization")) for r in hub.requests if "/ag" not in r.path}
    assert sent == {("127.0.0.1", f"Bearer {TOKEN}"), ("localhost", None)}


def test_branch_tag_and_commit(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    repository = hub.repositories[MODEL]
    repository.commits[SECOND] = repository.commits[FIRST] | {"README.md": b"license: mit\n"}
    repository.refs |= {"v1": FIRST, "refs/pr/1": SECOND}
    found = {r: resolve(MODEL, r) for r in (None, "main", "v1", FIRST, "refs/pr/1", SECOND)}
    assert {r: s.revision for r, s in found.items()} == {
        None: FIRST,
        "main": FIRST,
        "v1": FIRST,
        FIRST: FIRST,
        "refs/pr/1": SECOND,
        SECOND: SECOND,
    }
    assert {s.folder.name for s in found.values()} == {FIRST, SECOND}
    assert (found["main"].licence, found[SECOND].licence) == (None, "mit")
    repository.refs["main"] = SECOND
    assert resolve(MODEL, None).revision == SECOND
    # Each file's bytes once, whatever the revisions that hold it.
    assert sorted(hub.loaded()) == ["README.md", *sorted(repository.commits[FIRST])]
    assert "cached" not in capsys.readouterr().err


def test_owners_of_one_name_have_a_folder_each(hub: Hub) -> None:
    hub.repositories["other/small"] = hub.repositories[MODEL]
    assert [resolve(m, None).name for m in (MODEL, "other/small")] == [
        "acme--small",
        "other--small",
    ]


@pytest.mark.parametrize("way", ["stopped", "down", "offline"])
def test_without_the_hub_the_cached_commit_is_used_and_said(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    repository = hub.repositories[MODEL]
    repository.commits[SECOND] = repository.commits[FIRST]
    repository.refs["next"] = SECOND
    before = resolve(MODEL, "next")
    hub.requests.clear()
    capsys.readouterr()
    if way == "stopped":
        hub.stop()
    elif way == "down":
        hub.status = 503
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(MODEL, "next") == before
    assert resolve(MODEL, SECOND) == before
    first, second = capsys.readouterr().err.splitlines()
    words = {
        "stopped": "Connection refused",
        "down": "it answered 503",
        "offline": "HF_HUB_OFFLINE",
    }
    assert words[way] in first
    assert first.endswith(
        f"using the cached commit {SECOND} of {MODEL}, 'next' when it was last looked up"
    )
    assert second.endswith(f"using the cached commit {SECOND} of {MODEL}")
    # The cache's other revisions are no substitute.
    for revision in (None, "main", FIRST):
        assert f"{MODEL} at '{revision or 'main'}' is not in the cache" in refused(MODEL, revision)
    assert hub.requests == [] or way == "down"


def test_half_a_download_is_not_used_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.faults["model.safetensors"] = Fault(times=1, sent=b"short")
    refused()
    hub.stop()
    for revision in (None, FIRST):
        assert "the cache lacks model.safetensors (1 in all)" in refused(MODEL, revision)


@pytest.mark.parametrize(
    ("refusal", "hidden", "model", "revision", "words"),
    [
        (None, False, MODEL, "v9", "REVISION: acme/small has no branch, tag or commit 'v9'"),
        (None, False, MODEL, "3" * 40, "REVISION: acme/small has no branch, tag or commit '333"),
        (None, False, "acme/none", None, "neither a folder here nor a repository at http://127"),
        (None, True, MODEL, None, "HF_TOKEN"),
        ((401, "GatedRepo"), False, MODEL, None, "acme/small is gated (401): accept its terms at "),
        ((403, "GatedRepo"), False, MODEL, None, "acme/small is gated (403): accept its terms at "),
        ((401, ""), False, MODEL, None, "to this token, or to none (401)"),
        ((403, ""), False, MODEL, None, "to this token, or to none (403)"),
        ((500, ""), False, MODEL, None, "failed (it answered 500); run it again"),
    ],
)
def test_refusal_says_what_to_do(
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refusal: tuple[int, str] | None,
    hidden: bool,
    model: str,
    revision: str | None,
    words: str,
) -> None:
    hub.repositories[MODEL].refusal = refusal
    hub.repositories[MODEL].hidden = hidden
    text = refused(model, revision)
    assert words in text
    if "gated" in text:
        assert f"{hub.endpoint}/{MODEL}" in text
        assert "HF_TOKEN=..." in text
    assert blobs(tmp_path) == []
    assert TOKEN not in capsys.readouterr().err


def test_token_that_cannot_be_sent_is_not_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\f{TOKEN}")
    assert "cannot be used (Illegal header value" in refused()


def test_what_is_cached_does_not_hide_a_refusal(hub: Hub) -> None:
    resolve(MODEL, None)
    hub.repositories[MODEL].hidden = True
    assert "neither a folder here nor a repository" in refused()
    hub.repositories[MODEL].hidden = False
    hub.repositories[MODEL].refs = {}
    assert "REVISION: acme/small has no branch, tag or commit 'main'" in refused()


def test_cut_connection_is_resumed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults["model.safetensors"] = Fault(times=2, after=1_000_000)
    folder = resolve(MODEL, None).folder
    assert files_of(folder) == hub.repositories[MODEL].commits[FIRST]
    ranges = [r.headers.get("Range") for r in hub.requests if r.path.startswith("/cdn/")]
    assert ranges == [None, "bytes=786432-", "bytes=1572864-"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hub: ")]
    assert len(lines) == 2  # one a retry, without the signed address of the file
    assert all("peer closed connection" in line and "http" not in line for line in lines)


def test_reset_connection_is_tried_again(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults["model.safetensors"] = Fault(times=2, after=100_000, reset=True)
    assert files_of(resolve(MODEL, None).folder) == hub.repositories[MODEL].commits[FIRST]
    assert capsys.readouterr().err.count("trying again") == 2


@pytest.mark.parametrize("reset", [False, True])
def test_connection_that_is_always_cut_ends_with_one_line(
    hub: Hub, tmp_path: Path, reset: bool
) -> None:
    hub.faults["model.safetensors"] = Fault(times=99, after=1000, reset=reset)
    text = refused()
    assert re.match(rf"MODEL: the download of model.safetensors of {MODEL} from .* failed \(", text)
    assert hub.loaded().count("model.safetensors") == (3 if reset else 6)
    assert not any("incomplete" in name for name in blobs(tmp_path))
    hub.faults.clear()
    assert files_of(resolve(MODEL, None).folder) == hub.repositories[MODEL].commits[FIRST]
    assert hub.loaded().count("config.json") == 1


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.safetensors", "shorter"),
        ("model.safetensors", "longer"),
        ("model.safetensors", "other"),  # of files in Git the listing holds the size alone
        ("tokenizer.json", "shorter"),
        ("tokenizer.json", "longer"),
    ],
)
def test_file_that_is_not_the_announced_one_does_not_stay(hub: Hub, what: str, name: str) -> None:
    content = hub.repositories[MODEL].commits[FIRST][name]
    sent = {"shorter": content[:-9], "longer": content + b"more", "other": content[::-1]}[what]
    hub.faults[name] = Fault(sent=sent)
    text = refused()
    assert name in text
    assert re.search("should be of size|SHA-256", text)
    assert files_of(resolve(MODEL, None).folder) == hub.repositories[MODEL].commits[FIRST]


def test_listing_that_announces_another_size_than_the_file_has(hub: Hub, tmp_path: Path) -> None:
    hub.sizes["tokenizer.json"] = 5
    assert "tokenizer.json from http" in (text := refused())
    assert "5 were announced" in text
    assert blobs(tmp_path) == []
    hub.sizes.clear()
    assert files_of(resolve(MODEL, None).folder) == hub.repositories[MODEL].commits[FIRST]


def test_damaged_file_of_the_cache_is_loaded_again(hub: Hub) -> None:
    folder = resolve(MODEL, None).folder
    (folder / "config.json").resolve().write_bytes(b"{")
    assert files_of(resolve(MODEL, None).folder) == hub.repositories[MODEL].commits[FIRST]


def test_hostile_names_are_not_loaded(hub: Hub, tmp_path: Path) -> None:
    """A name becomes a path below the cache."""
    good = hub.repositories[MODEL].commits[FIRST]
    evil = (
        "../../x.safetensors",
        "../../../../model.safetensors",
        "/tmp/model.safetensors",
        "../adapter_config.json",
        "a\n/adapter_config.json",
        "model\x1b[2J.safetensors",
        "model\\..\\..\\x.safetensors",
        "..\\adapter_config.json",
        "./adapter_config.json",
        "a/../adapter_config.json",
        "model\u202e.safetensors",
        "",
    )
    hub.repositories[MODEL].commits[FIRST] = good | dict.fromkeys(evil, b"evil")
    before = set(tmp_path.parent.rglob("*"))
    folder = resolve(MODEL, None).folder
    assert sorted(hub.loaded()) == sorted(good)
    assert files_of(folder) == good
    made = set(tmp_path.parent.rglob("*")) - before - {tmp_path / "harnesses"}
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {"cache"}


def test_etag_that_is_a_path_writes_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.etag = "../../../../escaped"
    assert "ETag is not the name of a file" in refused()
    assert not any("escaped" in name for name in listing(tmp_path))


@pytest.mark.parametrize("sha", ["../../../x", "main", "", None])
def test_commit_that_is_none_is_refused(hub: Hub, tmp_path: Path, sha: str | None) -> None:
    hub.sha = sha
    assert "cannot be used (it names" in refused()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>",
        b"[]",
        b"{}",
        b'{"id": 1}',
        b'{"id": "x", "sha": 1}',
        b'{"id": "x", "siblings": 1}',
        b'{"id": "x", "siblings": [{"rfilename": 1}]}',
        b'{"id": "x", "siblings": [{}]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_answer_that_is_not_a_hub_s_is_one_line(hub: Hub, body: bytes) -> None:
    """What a captive portal answers, for example."""
    hub.status, hub.body = 200, body
    assert "cannot be used (" in refused()


@pytest.mark.parametrize("revision", ["../main", "a b", "/x", "a\nb", "a\u202eb", "v~1", "x:y"])
def test_revision_that_cannot_be_one(hub: Hub, revision: str) -> None:
    assert "REVISION: got " in refused(MODEL, revision)
    assert hub.requests == []


@pytest.mark.parametrize("what", ["main", FIRST])
def test_hub_that_never_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(export.checkpoint.hub_client, "_WAIT", 0.3)
    hub.stalled = f"/{what}"  # the model's page, or its listing
    start = time.monotonic()
    assert "timed out" in refused()
    assert time.monotonic() - start < 5


def test_missing_network_is_known_within_seconds(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert export.checkpoint.hub_client._CONNECT <= 3
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.invalid")
    # A resolver that does not answer: glibc asks again for 10 s and more.
    monkeypatch.setattr(export.checkpoint.hub_client, "_CONNECT", 0.3)
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [never.wait(20)][:0])
    start = time.monotonic()
    text = refused()
    assert time.monotonic() - start < 3
    never.set()
    assert text.startswith("MODEL: https://huggingface.invalid cannot be reached (no connection")
    assert "MODEL=/path/to/the/folder" in text


@pytest.mark.parametrize(
    ("endpoint", "proxy", "words"),
    [
        ("http://127.0.0.1:{free}", "", "refused"),
        ("http://127.0.0.1:{port}", "", None),
        ("http://hub.invalid", "", "not known"),
        ("http://hub.invalid", "http://127.0.0.1:{port}", None),
        ("http://hub.invalid", "127.0.0.1:{port}", None),
        ("http://127.0.0.1:{port}", "http://127.0.0.1:{free}", "refused"),
        ("hub.invalid", "", "no address"),
        ("http://hub.invalid:port", "", "no address"),
        ("http://hub..invalid", "", "idna"),
    ],
)
def test_connection_goes_where_the_client_would_go(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, endpoint: str, proxy: str, words: str | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        free = held.getsockname()[1]
    ports = {"port": hub.server.server_port, "free": free}
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("http_proxy", proxy.format(**ports))
    failure = connection_failure(endpoint.format(**ports))
    assert failure is None if words is None else words in str(failure)


def test_password_of_the_endpoint_is_not_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:1")
    assert "secret" not in (text := refused())
    assert "http://127.0.0.1:1 cannot be reached" in text


def test_log_shows_life(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.checkpoint.hub_client, "_EVERY", 0.0)
    resolve(MODEL, None)
    size = len(hub.repositories[MODEL].commits[FIRST]["model.safetensors"]) / 1e6
    error = capsys.readouterr().err
    assert re.search(rf"^model.safetensors: 1 of {size:.0f} MB$", error, re.MULTILINE)
    assert re.search(rf"^downloaded model.safetensors \({size:.2f}MB\)$", error, re.MULTILINE)
    assert "\r" not in error


def test_terminal_shows_a_bar(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    resolve(MODEL, None)
    assert re.search(r"\rmodel\.safetensors: +0%\|", terminal.getvalue())


@pytest.mark.parametrize("name", ["..", "\n", "a\nb", ".hidden", "a\u202eb"])
def test_folder_whose_name_is_no_good_for_bundles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = Path("/") if name == ".." else tmp_path / name
    folder.mkdir(exist_ok=True)
    assert "has a name that its bundles cannot be put under" in refused(str(folder))
    monkeypatch.chdir(folder)
    assert "has a name that its bundles cannot be put under" in refused(".")


def test_folder_is_named_by_its_own_name(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mit Leerzeichen").symlink_to(small_folder)
    assert resolve(str(tmp_path / "mit Leerzeichen"), None).name == small_folder.name
    monkeypatch.chdir(small_folder)
    assert resolve(".", None).name == small_folder.name


@pytest.mark.parametrize(
    "model",
    [
        "/nowhere",
        "a/b/c",
        "a--b/c",
        "a/b..c",
        "../x",
        "ä/b",
        "a/b\n",
        "x\0y",
        "~nobody/x/y",
        "m" * 5000,
        "",
        " ",
        "a/b.git",
        "a/b-",
        f"a/{'b' * 99}",
    ],
)
def test_model_that_is_neither(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)  # no ../x beside it
    text = refused(model) if model else "MODEL"
    assert text.startswith("MODEL")
    assert len(text) < 500
    assert hub.requests == []
