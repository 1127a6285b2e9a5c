"""Every combination of choices: the build and the manifest refuse the same ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from export.spec import BuildSpec, VocabularySpec
from runtimes.choices import AdapterMode, HeadName, Interface, Layout, Precision, Target
from runtimes.combinations import RULES, Combination, refused_by
from runtimes.errors import InputError
from runtimes.manifest_rules import broken_rule
from tests.support import VOCABULARY, make_manifest

ALL = [
    Combination(precision=p, target=t, adapter=a, interface=i, head=h, layout=w, pruned=pruned)
    for p, t, a, i, h, w, pruned in product(
        Precision, Target, AdapterMode, Interface, HeadName, Layout, (False, True)
    )
]


def build_refusal(c: Combination) -> str | None:
    try:
        BuildSpec(
            model="m",
            task="separation",
            out=Path("build"),
            gpus=("sm89",),
            precision=c.precision,
            target=c.target,
            adapter=c.adapter,
            interface=c.interface,
            head=c.head,
            layout=c.layout,
            vocabulary=VocabularySpec(source="de") if c.pruned else None,
        )
    except InputError as error:
        return str(error)
    return None


def manifest_refusal(c: Combination) -> str | None:
    tasks = ("a", "b") if c.adapter is AdapterMode.SWITCHABLE else ("a",)
    with_prefix = (*tasks, "base") if len(tasks) > 1 else tasks
    return broken_rule(
        make_manifest(
            precision=c.precision,
            target={"name": c.target},
            adapter=c.adapter,
            interface=c.interface,
            head=c.head,
            layout=c.layout,
            vocabulary=VOCABULARY if c.pruned else None,
            tasks=tasks,
            task="all" if len(tasks) > 1 else "a",
            prefixes=dict.fromkeys(with_prefix, ""),
            slot_rank=4 if c.adapter is AdapterMode.SLOT else None,
        )
    )


def test_a_bundle_that_can_be_built_can_be_read_and_no_other() -> None:
    refused = 0
    for combination in ALL:
        build, manifest = build_refusal(combination), manifest_refusal(combination)
        assert (build is None) == (manifest is None), combination
        assert build is None or ("\n" not in build and "{" not in build)
        refused += build is not None
    assert 0 < refused < len(ALL)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_every_rule_is_the_only_one_somewhere(rule: object) -> None:
    """One that another rule covers could go."""
    alone = [c for c in ALL if refused_by(c) is rule and sum(r.refuses(c) for r in RULES) == 1]
    assert alone


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_the_rules_ask_the_precisions_row(precision: Precision) -> None:
    slot = Combination(
        precision=precision,
        target=Target.ONNXRUNTIME,
        adapter=AdapterMode.SLOT,
        interface=Interface.SENTENCE,
        head=HeadName.SENTENCE,
        layout=Layout.FLAT,
    )
    assert refused_by(slot) is None
    assert refused_by(replace(slot, precision=Precision.BF16)) is not None
