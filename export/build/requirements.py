"""Whether what is installed fits together, asked before work begins.

Two libraries can each be importable and yet not work as a pair: transformers 5.24 loads no adapter
with peft 0.21, which shows minutes into a build.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from runtimes.errors import MissingError

PROJECT = "adaptrt"


def check_installed() -> None:
    """Raise :class:`MissingError` for a package that is missing or does not fit the others.

    Fits means: within the versions this project was tested with, and what transformers itself asks
    of peft, with which it loads the reference's adapters.
    """
    ours = [Requirement(line) for line in _stated(PROJECT)]
    needed = [r for r in ours if r.marker is None or r.marker.evaluate({"extra": ""})]
    ours_unmet = list(_unmet(needed, _named(PROJECT)))
    pair = [_peft_of_transformers()]
    pair_unmet = list(_unmet(pair, _named("transformers")))
    if wrong := ours_unmet + pair_unmet:
        words = "; ".join(f"{who} needs {need}, installed is {got}" for who, need, got in wrong)
        # Ours first: within our ranges the pair fits, while the newer half's wish may not exist.
        mend = " ".join(f"'{need}'" for _, need, _ in ours_unmet or pair_unmet)
        raise MissingError(f"packages do not fit together: {words}; pip install {mend}")


def _unmet(needed: list[Requirement], who: str) -> Iterator[tuple[str, str, str]]:
    """Who needs it, what is needed and what is there."""
    for requirement in needed:
        name, versions = requirement.name, requirement.specifier
        found = _version(name)
        if found is None or not versions.contains(found, prereleases=True):
            yield who, f"{name}{versions}", _named(name)


def _stated(project: str) -> list[str]:
    try:
        return requires(project) or []
    except PackageNotFoundError:  # run from a folder, without being installed
        return []


def _peft_of_transformers() -> Requirement:
    try:
        from transformers.dependency_versions_table import deps
    except ImportError as error:
        raise MissingError(
            f"transformers does not load ({error}); pip install {PROJECT}"
        ) from error
    return Requirement(deps["peft"])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _named(name: str) -> str:
    found = _version(name)
    return f"no {name}" if found is None else f"{name} {found}"
