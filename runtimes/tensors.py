"""The tensors that graphs take and give: name, element type and axes, each described once.

The trace, the engines' profiles, the executors' checks and a server's configuration read the same
records, so none of them knows an input by its name or its number of axes. Manifests hold them too,
for the script that builds an engine where none of this is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from runtimes.arrays import Arrays
from runtimes.errors import InputError
from runtimes.profiles import Profile
from runtimes.typed_json import Plain

_Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Sizes = tuple[_Size, _Size, _Size]  # least, best and greatest


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis. Its size differs from call to call, unless the architecture fixes it.

    ``profile_side`` says which number of a profile's (batch, tokens) it takes; an axis that
    profiles say nothing of has ``sizes`` of its own. An axis with neither is fixed.
    """

    name: Plain
    example: _Size = 1  # its size while tracing
    profile_side: Annotated[int, Meta(ge=0, le=1)] | None = None
    sizes: Sizes | None = None

    def greatest(self, limits: tuple[int, int]) -> int:
        """Its greatest size in a graph for at most so many rows and tokens."""
        return self.range_in(Profile(name="limits", min=(1, 1), opt=limits, max=limits))[2]

    def range_in(self, profile: Profile) -> Sizes:
        """The sizes an engine with this profile is built for."""
        if self.profile_side is not None:
            side = self.profile_side
            return profile.min[side], profile.opt[side], profile.max[side]
        if self.sizes is None:
            raise ValueError(f"axis {self.name}: fixed, it has no range")
        return self.sizes


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a graph; ``dtype`` is NumPy's name."""

    name: Plain
    dtype: Plain
    axes: tuple[Axis, ...]

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Its shape while tracing."""
        return tuple(axis.example for axis in self.axes)

    def shapes_in(self, profile: Profile) -> tuple[tuple[int, ...], ...]:
        """The least, best and greatest shape in a profile."""
        ranges = [axis.range_in(profile) for axis in self.axes]
        return tuple(tuple(sizes[i] for sizes in ranges) for i in range(3))


# Any example sizes do; they differ so that the exporter cannot take two axes for one symbol.
BATCH = Axis(name="batch", example=2, profile_side=0)
SEQUENCE = Axis(name="sequence", example=7, profile_side=1)
HIDDEN = Axis(name="hidden")

INPUT_IDS = Tensor(name="input_ids", dtype="int64", axes=(BATCH, SEQUENCE))
ATTENTION_MASK = Tensor(name="attention_mask", dtype="int64", axes=(BATCH, SEQUENCE))
TASK_ID = Tensor(name="task_id", dtype="int64", axes=(BATCH,))
SENTENCE_EMBEDDING = Tensor(name="sentence_embedding", dtype="float32", axes=(BATCH, HIDDEN))


def check_shapes(tensors: Sequence[Tensor], arrays: Arrays) -> dict[Axis, int]:
    """Refuse arrays whose axes of one name differ in size from those of ``input_ids``.

    ``tensors`` describe inputs; those that ``arrays`` lacks are left out. Returns every axis' size.
    """
    ids = arrays[INPUT_IDS.name]
    if ids.ndim != len(INPUT_IDS.axes):
        raise InputError(f"input_ids: got shape {list(ids.shape)}, expected [batch, tokens]")
    sizes = dict(zip(INPUT_IDS.axes, ids.shape, strict=True))
    for tensor in tensors:
        if (array := arrays.get(tensor.name)) is None:
            continue
        shape = array.shape
        if len(shape) != len(tensor.axes) or any(
            sizes.setdefault(axis, size) != size
            for axis, size in zip(tensor.axes, shape, strict=True)
        ):
            raise InputError(
                f"{tensor.name}: got shape {list(shape)} beside input_ids {list(ids.shape)}"
            )
    return sizes
