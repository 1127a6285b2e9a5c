"""Whether what is installed can build, and fits together, asked before work begins.

Two libraries can each be importable and yet not work as a pair: transformers 5.24 loads no adapter
with peft 0.21, which shows minutes into a build.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement

from runtimes.errors import MissingError

PROJECT = "adaptrt"
BUILDER = "export"  # the extra
# By the extra that installs it: ONNX Runtime for CPUs alone, or for NVIDIA GPUs too. Both write
# their files into one folder, so that the one installed last is broken by removing the other.
ORT = {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}


def require_builder() -> None:
    """Raise :class:`MissingError` in a light install, which has only what running a bundle needs.

    Asks for no versions and loads nothing: this comes before the modules that import the rest.
    """
    absent = [r.name for r in _stated(BUILDER) if _version(r.name) is None]
    if "torch" in absent:
        extras = BUILDER if _installed_ort() else f"cpu,{BUILDER}"
        raise MissingError(
            f"this needs torch and {len(absent) - 1} other packages that a light install leaves "
            f"out; pip install '{PROJECT}[{extras}]'"
        )


def check_installed() -> None:
    """Raise :class:`MissingError` for a package that is missing or does not fit the others.

    Fits means: within the versions this project was tested with, one ONNX Runtime, and what
    transformers itself asks of peft, with which it loads the reference's adapters.
    """
    ours = [*_stated(""), *_stated(BUILDER), *_onnxruntime()]
    ours_unmet = list(_unmet(ours, _named(PROJECT)))
    pair_unmet = list(_unmet([_peft_of_transformers()], _named("transformers")))
    if wrong := ours_unmet + pair_unmet:
        words = "; ".join(f"{who} needs {need}, installed is {got}" for who, need, got in wrong)
        # Ours first: within our ranges the pair fits, while the newer half's wish may not exist.
        mend = " ".join(f"'{need}'" for _, need, _ in ours_unmet or pair_unmet)
        raise MissingError(f"packages do not fit together: {words}; pip install {mend}")


def _onnxruntime() -> list[Requirement]:
    """What the ONNX Runtime that is installed has to be; :class:`MissingError` unless it is one.

    One of another name, as others distribute it, is taken as it is.
    """
    present = _installed_ort()
    if len(present) > 1:
        raise MissingError(
            f"{' and '.join(map(_named, present.values()))} are both installed and overwrite each "
            f"other's files; pip uninstall -y {' '.join(ORT.values())}, then pip install "
            f"'{PROJECT}[cpu]', or '{PROJECT}[gpu]' for NVIDIA GPUs"
        )
    if not present:
        if find_spec("onnxruntime") is not None:
            return []
        raise MissingError(
            "ONNX Runtime is not installed, which runs the graphs that are built; pip install "
            f"'{PROJECT}[cpu]', or '{PROJECT}[gpu]' for NVIDIA GPUs"
        )
    (extra,) = present
    return [r for r in _stated(extra) if r.name == ORT[extra]]


def _installed_ort() -> dict[str, str]:
    return {extra: name for extra, name in ORT.items() if _version(name) is not None}


def _unmet(needed: list[Requirement], who: str) -> Iterator[tuple[str, str, str]]:
    """Who needs it, what is needed and what is there."""
    for requirement in needed:
        name, versions = requirement.name, requirement.specifier
        installed = _version(name)
        if installed is None or not versions.contains(installed, prereleases=True):
            yield who, f"{name}{versions}", _named(name)


def _stated(extra: str) -> list[Requirement]:
    """What the project's metadata asks for with ``extra`` and not without; "": without any."""
    try:
        lines = requires(PROJECT) or []
    except PackageNotFoundError:  # run from a folder, without being installed
        return []
    stated = [Requirement(line) for line in lines]
    always = [r for r in stated if _applies(r, "")]
    return always if not extra else [r for r in stated if r not in always and _applies(r, extra)]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _peft_of_transformers() -> Requirement:
    try:
        from transformers.dependency_versions_table import deps
    except ImportError as error:
        raise MissingError(
            f"transformers does not load ({error}); pip install '{PROJECT}[{BUILDER}]'"
        ) from error
    return Requirement(deps["peft"])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _named(name: str) -> str:
    installed = _version(name)
    return f"no {name}" if installed is None else f"{name} {installed}"
