"""The committed report of ``make recipes`` as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER

FILE = FOLDER / "recipes" / "recipes.json"


def table() -> str:
    """The committed report, a row for each recipe."""
    report = json.loads(FILE.read_text(encoding="utf-8"))
    cases = list(dict.fromkeys((row["model"], row["task"]) for row in report["rows"]))
    head = ("recipe", *(f"{model}, {task}" for model, task in cases))
    by_recipe: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in report["rows"]:
        by_recipe.setdefault(row["recipe"], {})[row["model"], row["task"]] = row
    rows = [
        (name, *(f"{found[c]['least']:.6f} / {found[c]['mean']:.6f}" for c in cases))
        for name, found in by_recipe.items()
    ]
    caption = f"*least / mean cosine over {report['texts']} texts, emulated; {report['machine']}, "
    return f"{caption}{report['date']}*\n\n{markdown(head, rows)}"
