"""What the dashboard and the alerts ask for is what a running server shows."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.api_support import api_server
from tests.unit.test_deploy import queries, series, unknown


def test_a_running_server_has_every_series_and_label_that_is_asked_for(small_bundle: Path) -> None:
    with api_server([small_bundle], "--threads", "1") as server:
        card = server.ask("GET", "/v1/models").json["data"][0]
        server.vectors(input=["one", "two"], task=card["tasks"][0])
        assert server.embed(input="").status == 400
        text = server.ask("GET", "/metrics").body.decode()
    shown: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            shown.setdefault(sample.name, set()).update(sample.labels)
    assert [
        (where, unknown(query, shown)) for where, query in queries() if unknown(query, shown)
    ] == []
    assert {name: labels for name, labels in series().items() if not labels <= shown[name]} == {}
