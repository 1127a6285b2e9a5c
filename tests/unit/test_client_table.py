"""What counts as the embedder's vectors, and what the table of clients says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.interop import api_clients, client_table
from tests.interop.client_table import ApiOutcome, Outcome, outcome, read, table, write, write_api

UNIT = np.array([[1.0, 0.0], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("bundle", "angle", "works"),
    [
        ("FP32", 9e-6, True),
        ("FP32", 2e-5, False),
        ("FP16", 2e-5, False),
        ("INT8", 0.04, True),
        ("INT8", 0.05, False),  # the cosine of a text cut at 80 tokens is 0.95
        ("FP32", float("nan"), False),
        ("INT8", float("nan"), False),
    ],
)
def test_limits(bundle: str, angle: float, works: bool) -> None:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    assert outcome("a", "1", bundle, UNIT @ turn, UNIT).works is works


def test_vectors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got vectors \(2, 1\), expected \(2, 2\)"):
        outcome("a", "1", "FP32", UNIT[:, :1], UNIT)


def test_table_has_a_row_for_each_version_and_marks_what_is_not_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clients.json"
    monkeypatch.setattr(client_table, "RECORD", path)
    tried = [("1.20", "FP32", 1.234e-7), ("1.20", "FP16", 0.5), ("2.0", "FP32", 0.0)]
    rows = [
        Outcome(client="a", version=version, bundle=bundle, largest=largest, cosine=1.0)
        for version, bundle, largest in tried
    ]
    write(rows, path)
    assert read(path)[0]["largest"] == 1.2e-7
    lines = table().splitlines()
    assert lines[2].startswith("| a 1.20 | 1e\N{NON-BREAKING HYPHEN}7 | ")
    assert "| **5e\N{NON-BREAKING HYPHEN}1** |" in lines[2]
    assert lines[3].startswith("| a 2.0 | 0e+00 | ")


def test_a_part_of_a_run_does_not_become_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, record = tmp_path / "run.json", tmp_path / "record.json"
    monkeypatch.setattr(client_table, "RUN", run)
    monkeypatch.setattr(client_table, "RECORD", record)
    monkeypatch.setattr(client_table, "keep_api", lambda: None)
    every = [
        Outcome(client=client.name, version="1", bundle=bundle, largest=0.0, cosine=1.0)
        for client in client_table.CLIENTS
        for bundle in client.bundles
    ]
    write(every[1:], run)
    with pytest.raises(SystemExit, match="not all clients ran"):
        client_table.main()
    assert not record.exists()
    write(every, run)
    client_table.main()
    assert read(record) == read(run)


def test_the_same_of_the_apis_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, record = tmp_path / "run.json", tmp_path / "record.json"
    monkeypatch.setattr(client_table, "API_RUN", run)
    monkeypatch.setattr(client_table, "API_RECORD", record)
    every = [
        ApiOutcome(client=client.name, release="a 1", sends=client.sends, largest=1.26e-8)
        for client in api_clients.CLIENTS
    ]
    write_api(every[1:], run)
    with pytest.raises(SystemExit, match=r"not all clients ran: \[\('openai', 'float'\)\]"):
        client_table.keep_api()
    assert not record.exists()
    write_api(every, run)
    client_table.keep_api()
    assert read(record)[0]["largest"] == 1.3e-8
    assert "| openai | a 1 | float | 1e\N{NON-BREAKING HYPHEN}8 |" in client_table.api_table()


def test_committed_record_holds_every_client_of_the_api() -> None:
    rows = read(client_table.API_RECORD)
    assert [(r["client"], r["sends"]) for r in rows] == [
        (client.name, client.sends) for client in api_clients.CLIENTS
    ]
    for row, client in zip(rows, api_clients.CLIENTS, strict=True):
        assert row["largest"] <= (0.0 if client.exact else 1e-6)


def test_committed_record_holds_every_client_and_nothing_that_differs() -> None:
    rows = read(client_table.RECORD)
    tried = sorted((row["client"], row["bundle"]) for row in rows)
    assert tried == sorted((c.name, bundle) for c in client_table.CLIENTS for bundle in c.bundles)
    assert all(row["works"] for row in rows)
