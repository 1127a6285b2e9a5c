"""What the integration tests have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import calibration.looks


@pytest.fixture(scope="module", autouse=True)
def fewer_looks() -> Iterator[None]:
    """Half the texts of the first look, then its own; ``tests/quantised`` has the usual ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration.looks, "LOOKS", ((48, 48), (96, 96)))
        yield
