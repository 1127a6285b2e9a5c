"""Numbers in pages that look like figures and are none: settings, limits, sizes of a design.

What no rule of :mod:`tests.bench.unbound` tells is named here, with the reason. A row that no page
needs is reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What numbers stand in, as a pattern, on pages that match another."""

    page: str
    pattern: str
    why: str


_GATES = r"least cosine 0\.99, mean 0\.995|0\.99 and 0\.99[58]|then 0\.999|cosine of 0\.999999"
SETTINGS: tuple[Setting, ...] = (
    Setting(r"docs/(tasks|benchmarks)/.*", _GATES, "the gate's cosines, of runtimes/schemes.py"),
    Setting(
        r"docs/benchmarks/cpu\.md",
        "sampled three times|over 6 s|over 15 s|tick of 10 ms",
        "how it samples",
    ),
    Setting(
        r"docs/benchmarks/embed\.md",
        r"corpora of 1 and 0\.1 GB|50 KB beside|1 GB of text",
        "sizes of corpora that are made",
    ),
    Setting(
        r"docs/benchmarks/recipes\.md",
        r"alpha 0\.95|twelve times larger",
        "NNCF's setting; how channels were planted",
    ),
    Setting(
        r"docs/benchmarks/torture\.md",
        r"four times a second|200 times|limit of 120 s \(240 s|1\.5 GB of memory \(2 GB|"
        r"3 GB of nothing",
        "what is done to commands, and their limits",
    ),
    Setting(r"docs/stability\.md", r"\| 0\.1 \|", "a version"),
    Setting(r"docs/tasks/calibration\.md", "three times as many", "how many are drawn"),
    Setting(
        r"docs/tasks/embed-cluster\.md",
        r"about 1\.2 KB|A100 40GB|27 hours on one|2\.5 MB of text|8\.5 MB of float32|"
        r"input \(1\.2 TB\)|230 MB of float32|cores take nine minutes|\) two seconds",
        "an assumption, a card's name, and arithmetic from the page's rates",
    ),
    Setting(r"docs/tasks/int8\.md", r"95 % confidence|25 % of the work", "settings of the gate"),
    Setting(
        r"docs/tasks/jetson\.md",
        r"4 GB module|0\.43 GB|and 0\.6 GB",
        "a module, and what export/devices.py reckons with",
    ),
    Setting(r"docs/tasks/prove\.md", "four times its own error", "a limit of the judgement"),
    Setting(
        r"docs/(tasks/prove|reference/make)\.md",
        "9 GB of disk",
        "570 million numbers of four bytes, four times: checkpoint, bundle, what is kept",
    ),
    Setting(r"docs/tasks/other-clients\.md", r"llama-index-core 0\.14", "a version"),
    Setting(r"docs/tasks/own-adapters\.md", "[23] × r", "a formula"),
    Setting(
        r"docs/tasks/(smaller-model|vocabulary)\.md",
        r"512 MB|250,002 of 1024",
        "the table's size, which follows from its shape",
    ),
    Setting(r"docs/tasks/smaller-model\.md", r"aimed at: .*? resident\.", "what was asked for"),
    Setting(r"docs/tasks/triton\.md", "after 5 s|16 times that|the 30 s", "limits"),
    Setting(
        r"docs/tasks/vector-types\.md",
        "40 of 120 passages|same 32 bytes",
        "how it is searched, and a size that follows from the type",
    ),
)
