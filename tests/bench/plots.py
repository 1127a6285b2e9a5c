"""Pictures of reports: ``python -m tests.bench.plots`` draws those of the committed ones anew."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.cases import LENGTHS
from tests.bench.contenders import CONTENDERS
from tests.bench.reports import FOLDER, Report, extra_gb, load, machine, model, names, not_measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEY = "Figures"  # of a PNG's metadata: the digest of what was drawn


@dataclass(frozen=True)
class Line:
    """One contender's curve over single texts; no ``memory`` where it was not measured."""

    contender: str
    colour: str
    marker: str
    tokens: list[int]
    seconds: list[float]
    memory: list[float]


def lines(report: Report) -> list[Line]:
    """What a picture shows, each contender in its own colour."""
    drawn = []
    for name, contender in CONTENDERS.items():
        rows = [
            row
            for row in report["rows"]
            if row["contender"] == name and row["case"].startswith("1x")
        ]
        rows.sort(key=lambda row: int(row["case"][2:]))
        if rows:
            memory = [gb for row in rows if (gb := extra_gb(report, row)) is not None]
            drawn.append(
                Line(
                    name,
                    contender.colour,
                    contender.marker,
                    [int(r["case"][2:]) for r in rows],
                    [r["seconds"] for r in rows],
                    memory,
                )
            )
    return drawn


def title(report: Report) -> str:
    return f"{model(report)}\n{machine(report)}"


def note(report: Report) -> str:
    """Whose memory is not in the picture, and why; empty where everybody's is."""
    return "\n".join(f"memory not measured: {who}" for who in not_measured(report, report["rows"]))


def digest(report: Report) -> str:
    """Of what a picture shows, so that one drawn from other figures can be told."""
    shown = [[asdict(line) for line in lines(report)], title(report), note(report)]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def drawn_from(picture: Path) -> str | None:
    """The digest that a picture holds; PNG keeps it as plain text."""
    found = re.search(_KEY.encode() + rb"\0([0-9a-f]{64})", picture.read_bytes())
    return found[1].decode() if found else None


def draw(report: Report) -> Figure:
    """Seconds and memory against length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure: Figure
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), layout="constrained")
    for line in lines(report):
        style = {"color": line.colour, "marker": line.marker, "label": line.contender}
        axes[0].plot(line.tokens, line.seconds, **style)
        if line.memory:
            axes[1].plot(line.tokens, line.memory, **style)
    for axis, label in zip(axes, ("seconds for one text", "extra memory in GB"), strict=True):
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="tokens of the text (log scale)",
            ylabel=f"{label} (log scale)",
        )
        axis.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
        axis.xaxis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3, which="both")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        title=note(report),
        title_fontsize=9,
    )
    figure.suptitle(title(report), fontsize=11)
    return figure


def save(report: Report, path: Path) -> None:
    """Draw a report into a PNG."""
    import matplotlib.pyplot as plt

    figure = draw(report)
    figure.savefig(path, dpi=130, metadata={_KEY: digest(report)})
    plt.close(figure)


def main() -> None:
    for name in names():
        save(load(name), FOLDER / f"{name}.png")
        print(f"written: docs/benchmarks/{name}.png")


if __name__ == "__main__":
    main()
