"""A checkpoint from the hub: the files that are read, through huggingface_hub and its cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from export.checkpoint.hub_client import (
    SilentBar,
    connection_failure,
    foreign_errors,
    hub,
    limited_session,
    one_line_warnings,
    progress_bar,
    reason,
    refusal,
)
from export.console.progress import log
from runtimes.errors import InputError, one_line, shown
from runtimes.files import sha256

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# Weights, configuration and tokenizer: nothing that could be executed, no pickle, no ONNX. A name
# becomes a path: it is a plain one, or that of an adapter's file in a folder.
_WANTED = re.compile(
    r"config\.json|tokenizer(_config)?\.json|README\.md"
    r"|model[\w.-]*\.safetensors(\.index\.json)?"
    r"|[\w-][\w.-]*/adapter_(config\.json|model\.safetensors)",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION = re.compile(r"(?!/)(?!.*\.\.)[^\s~^:?*\[\\]+")  # what Git allows, nearly
_TRIES = 3  # per file after a reset connection; huggingface_hub tries again after the others
_BY_HAND = "download it elsewhere and give MODEL=/path/to/the/folder"


class _UnreachableError(Exception):
    """The hub does not answer, or not as one."""


def fetch(model: str, revision: str | None) -> Path:
    """The snapshot of ``owner/name`` at a branch, tag or commit; its folder is named by the commit.

    What the cache holds is not loaded again. Where the hub cannot be reached, the commit that
    ``revision`` was at last is taken from the cache, with a warning in the log.

    Raises :class:`InputError` where the snapshot cannot be had.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(model)
    except HFValidationError as error:
        raise InputError(f"MODEL: {shown(model)} is no hub id: {one_line(str(error))}") from error
    revision = revision or constants.DEFAULT_REVISION
    if not (_REVISION.fullmatch(revision) and revision.isprintable()):
        raise InputError(f"REVISION: got {shown(revision)}, expected a branch, tag or commit")
    if constants.is_offline_mode():
        return _cached(model, revision, "HF_HUB_OFFLINE is set")
    if failure := connection_failure(constants.ENDPOINT):
        return _cached(model, revision, f"{hub()} cannot be reached ({failure})")
    with limited_session(), one_line_warnings():
        try:
            commit, files = _listing(model, revision)
        except _UnreachableError as error:
            return _cached(model, revision, f"{hub()} cannot be used ({error})")
        folder = _snapshot_folder(model, revision, commit)
        for file in files:
            _fetch_file(model, revision, folder, file)
    return folder


def _listing(model: str, revision: str) -> tuple[str, list[RepoSibling]]:
    """The commit that ``revision`` is, and its wanted files, the largest last: what is wrong with
    the others is then known within a second.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
        files = [file for file in info.siblings or () if _WANTED.fullmatch(file.rfilename)]
        files.sort(key=lambda file: file.size or 0)
    except foreign_errors() as error:
        if refused := refusal(error, model, revision):
            raise refused from error
        raise _UnreachableError(reason(error)) from error
    if not (isinstance(info.sha, str) and _COMMIT.fullmatch(info.sha)):
        raise _UnreachableError(f"it names {shown(info.sha)} as the commit of {revision}")
    return info.sha, files


def _snapshot_folder(model: str, revision: str, commit: str) -> Path:
    """Where the files of the commit will be.

    The cache now holds the commit's listing and what commit ``revision`` is, so that a later build
    without the hub knows what to use and whether all of it is there.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(
            model, revision=revision, allow_patterns=[], tqdm_class=SilentBar
        )
    except foreign_errors() as error:
        raise _broken_off(model, revision, error) from error
    if (folder := Path(snapshot)).name != commit:
        raise InputError(f"REVISION: {shown(revision)} of {model} has just moved; run it again")
    return folder


def _fetch_file(model: str, revision: str, folder: Path, file: RepoSibling) -> None:
    """Put one file into the cache, unless it is there in the announced size."""
    from httpx import NetworkError
    from huggingface_hub import hf_hub_download

    path, again = folder / file.rfilename, False
    if path.is_file():
        again = file.size not in (None, path.stat().st_size)
        if not again:
            return
    for attempt in range(1, _TRIES + 1):
        try:
            # One after the other: an interrupt then need not wait for other threads.
            hf_hub_download(
                model,
                file.rfilename,
                revision=folder.name,
                force_download=again,
                tqdm_class=progress_bar(file.rfilename),
            )
            break
        except foreign_errors() as error:
            # A connection that is reset, where one that is closed is resumed by the library.
            if attempt == _TRIES or not isinstance(error, NetworkError):
                raise _broken_off(model, revision, error, file.rfilename) from error
            log.warning("%s: %s; trying again", file.rfilename, reason(error))
    _check(path, file)
    size = tqdm.format_sizeof(path.stat().st_size, "B")
    log.info("downloaded %s (%s)", file.rfilename, size)


def _broken_off(model: str, revision: str, error: Exception, file: str = "") -> InputError:
    return refusal(error, model, revision) or InputError(
        f"MODEL: the download of {file or 'the listing'} of {model} from {hub()} failed "
        f"({reason(error)}); run it again, or {_BY_HAND}"
    )


def _check(path: Path, file: RepoSibling) -> None:
    """Compare a new file with the listing; takes it out of the cache where they differ."""
    problem = None
    if file.size not in (None, size := path.stat().st_size):
        problem = f"{size} bytes arrived and {file.size} were announced"
    elif file.lfs and file.lfs.sha256 != sha256(path):
        problem = "its SHA-256 is not the one announced"
    if problem:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise InputError(f"MODEL: {file.rfilename} from {hub()}: {problem}; run it again")


def _cached(model: str, revision: str, why: str) -> Path:
    """The snapshot in the cache, if every wanted file of its commit is there."""
    from huggingface_hub import constants, get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    if not isinstance(config, str):
        network = "check the network, HF_ENDPOINT and proxies"
        remedy = "unset it" if constants.is_offline_mode() else network
        raise InputError(
            f"MODEL: {why}, and {model} at {shown(revision)} is not in the cache "
            f"({constants.HF_HUB_CACHE}); {remedy}, or {_BY_HAND}"
        )
    folder = Path(config).parent
    try:
        listed = get_cached_repo_tree(model, revision=folder.name)
    except CachedRepoTreeNotFoundError:  # filled by an older library: opening will tell
        listed = []
    names = [file.path for file in listed if _WANTED.fullmatch(file.path)]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(
            f"MODEL: {why}, and the cache lacks {missing[0]} ({len(missing)} in all) of {model} at "
            f"commit {folder.name}; run it again with the hub, or {_BY_HAND}"
        )
    then = "" if revision == folder.name else f", {shown(revision)} when it was last looked up"
    log.warning("%s: using the cached commit %s of %s%s", why, folder.name, model, then)
    return folder
