"""Which client was tried with which bundle, what came of it, and the page's table of it.

``make test-interop`` writes build/interop/clients.json; ``make clients`` makes it the committed
record, from which ``make figures`` writes the table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.interop import api_clients

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tasks" / "other-clients.md"
RECORD = PAGE.with_suffix(".json")
RUN = ROOT / "build" / "interop" / "clients.json"
# The same of the HTTP API's clients, which get vectors over a connection.
API_PAGE = ROOT / "docs" / "tasks" / "http-api.md"
API_RECORD = API_PAGE.with_suffix(".json")
API_RUN = RUN.with_name("api-clients.json")
MERGED = ("FP32", "FP32 with instruction", "FP32 in two files", "FP16", "INT8")
BUNDLES = (*MERGED, "switchable", "slot", "official")
OPENVINO = ("OpenVINO",)  # FP32, built with TARGET=openvino
COLUMNS = (*BUNDLES, *OPENVINO)
COMMAND = "make test-interop"  # that makes both records
LARGEST = 1e-5
# An activation that is rounded to the next of 256 steps, in another version or another batch, moves
# a vector by more than 1e-5: up to 5e-3 in a number, 2e-4 in the cosine.
ROUNDED = {"INT8": 0.999}


@dataclass(frozen=True, kw_only=True)
class Client:
    """A program of ``clients/``, the environment it runs in, and the bundles it is tried with."""

    name: str
    environment: str
    program: str
    bundles: tuple[str, ...] = MERGED


CLIENTS = (
    Client(name="sentence-transformers", environment="optimum", program="sentence_transformers"),
    Client(name="Optimum", environment="optimum", program="optimum"),
    Client(name="transformers.js, node", environment="transformers.js", program="transformers_js"),
    Client(
        name="transformers.js, Chromium",
        environment="transformers.js",
        program="chromium",
        bundles=("FP32", "FP32 in two files", "FP16", "INT8"),
    ),
    Client(
        name="fastembed",
        environment="fastembed",
        program="fastembed",
        bundles=(*MERGED, "official"),
    ),
    *(
        Client(
            name="ONNX Runtime",
            environment=f"onnxruntime-{version}",
            program="onnxruntime",
            bundles=BUNDLES,
        )
        for version in ("1.20", "newest")
    ),
    *(
        Client(name=name, environment="openvino", program=program, bundles=OPENVINO)
        for name, program in (
            ("sentence-transformers, OpenVINO", "sentence_transformers_openvino"),
            ("Optimum Intel", "optimum_intel"),
        )
    ),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One client with one bundle: the largest difference of a number, and the least cosine."""

    client: str
    version: str
    bundle: str
    largest: float
    cosine: float

    @property
    def works(self) -> bool:
        """Whether the vectors are the embedder's."""
        if self.bundle in ROUNDED:
            return self.cosine >= ROUNDED[self.bundle]
        return self.largest <= LARGEST


def outcome(
    client: str, version: str, bundle: str, theirs: np.ndarray[Any, Any], ours: np.ndarray[Any, Any]
) -> Outcome:
    """Vectors [texts, dimension], of unit length, side by side."""
    if theirs.shape != ours.shape:
        raise ValueError(f"{client}: got vectors {theirs.shape}, expected {ours.shape}")
    return Outcome(
        client=client,
        version=version,
        bundle=bundle,
        largest=float(np.abs(theirs - ours).max()),
        cosine=float((theirs * ours).sum(1).min()),
    )


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """A record; figures to two digits."""
    rows = [
        {
            "client": row.client,
            "version": row.version,
            "bundle": row.bundle,
            "largest": float(f"{row.largest:.1e}"),
            "cosine": round(row.cosine, 5),
            "works": row.works,
        }
        for row in outcomes
    ]
    _write_rows(rows, path)


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = f'"command": "{COMMAND}"'
    path.write_text(f'{{{head}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a record."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def table() -> str:
    """A row for each client and version; the largest difference with each kind of bundle."""
    rows = read(RECORD)
    clients = list(dict.fromkeys((row["client"], row["version"]) for row in rows))
    lines = [
        f"| client | {' | '.join(COLUMNS)} |",
        "|---" + "|---:" * len(COLUMNS) + "|",
    ]
    for client in clients:
        found = {r["bundle"]: r for r in rows if (r["client"], r["version"]) == client}
        cells = [_cell(found.get(bundle)) for bundle in COLUMNS]
        lines.append(f"| {' '.join(client)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    shown = f"{row['largest']:.0e}".replace("e-0", "e\N{NON-BREAKING HYPHEN}")
    return shown if row["works"] else f"**{shown}**"


@dataclass(frozen=True, kw_only=True)
class ApiOutcome:
    """One client of the HTTP API: what it sends, and the largest difference of a number."""

    client: str
    release: str
    sends: str
    largest: float


def write_api(outcomes: Sequence[ApiOutcome], path: Path) -> None:
    """A record; figures to two digits."""
    rows = [asdict(row) | {"largest": float(f"{row.largest:.1e}")} for row in outcomes]
    _write_rows(rows, path)


def api_table() -> str:
    """A row for each client: its package, what it sends, and the largest difference."""
    lines = ["| client | package | sends | largest difference |", "|---|---|---|---:|"]
    for row in read(API_RECORD):
        shown = f"{row['largest']:.0e}".replace("e-0", "e\N{NON-BREAKING HYPHEN}")
        shown = shown if row["largest"] else "0"
        lines.append(f"| {row['client']} | {row['release']} | {row['sends']} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Make the last run the committed record."""
    tried = Counter((row["client"], row["bundle"]) for row in read(RUN))
    wanted = Counter((client.name, bundle) for client in CLIENTS for bundle in client.bundles)
    if missing := sorted(wanted - tried):
        raise SystemExit(f"{RUN}: not all clients ran: {missing}")
    RECORD.write_bytes(RUN.read_bytes())
    keep_api()


def keep_api() -> None:
    """The same of the HTTP API's clients."""
    tried = {(row["client"], row["sends"]) for row in read(API_RUN)}
    wanted = {(client.name, client.sends) for client in api_clients.CLIENTS}
    if missing := sorted(wanted - tried):
        raise SystemExit(f"{API_RUN}: not all clients ran: {missing}")
    API_RECORD.write_bytes(API_RUN.read_bytes())


if __name__ == "__main__":
    main()
