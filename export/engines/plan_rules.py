"""What every engine's plan must keep, as a table of rules: a build that falls short fails.

The gate executes the typed graph in ONNX Runtime; these rules look at what the compiler made of it.
What is legitimately different for a precision, an adapter or a head is data in a rule. Waiving a
rule (``--allow-plan``) is the user's decision, which the manifest records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

from export.engines.plan import Kernel, Plan, PlanTensor
from export.engines.plan_figures import pair
from export.engines.traffic import factors
from runtimes.choices import AdapterMode, HeadName, PlanRule
from runtimes.errors import GateError
from runtimes.manifest import Architecture
from runtimes.schemes import Scheme, Storage

# TensorRT's words for the element types of a scheme.
TYPES: Mapping[str, str] = {
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int8": "Int8",
    "float8_e4m3fn": "FP8",
    "int4": "Int4",
}
_QUANTISED = ("Int8", "FP8", "Int4")
_WIDE = ("Float", "Int32")  # hold every sum of integer products
HALF_MAX = 65504.0
INT8_MAX = 127
# Tensor cores read rows of 16 bytes.
ALIGNMENT: Mapping[str, int] = {"Half": 8, "BFloat16": 8, "Int8": 16, "FP8": 16, "Int4": 32}
# Most launches of a layer, by the adapter and the types of quantised products: one more than
# TensorRT-RTX 1.7.1 makes of today's graphs (2026-11-28; sample, sm89). The first and the last
# layer share kernels with what comes before and after: only where there is none between them the
# shorter of both counts.
LAUNCHES: Mapping[tuple[AdapterMode, str | None], int] = {
    (AdapterMode.MERGED, None): 10,
    (AdapterMode.MERGED, "Int8×Int8"): 11,
    (AdapterMode.MERGED, "FP8×FP8"): 11,
    (AdapterMode.MERGED, "Half×Int8"): 11,
    (AdapterMode.MERGED, "Half×Int4"): 11,
    (AdapterMode.SWITCHABLE, None): 18,
    (AdapterMode.SWITCHABLE, "Int8×Int8"): 24,
    (AdapterMode.SWITCHABLE, "FP8×FP8"): 22,
    (AdapterMode.SWITCHABLE, "Half×Int8"): 22,
    (AdapterMode.SWITCHABLE, "Half×Int4"): 22,
}
_TOKEN_TYPES = "embeddings.token_type_embeddings."


@dataclass(frozen=True, kw_only=True)
class PlanSubject:
    """What an engine was asked to be.

    ``accumulator`` is the type in which attention was asked to add up, TensorRT's word;
    ``quantised`` counts the GEMMs by how they are stored, the joined QKV as one.
    ``column_sums`` are, by GEMM, the largest sum of a column's quantised magnitudes. ``table`` is
    how the word embeddings are stored, ``[entries, hidden]``; None: in the type of the rest.
    """

    scheme: Scheme
    adapter: AdapterMode
    head: HeadName
    architecture: Architecture
    accumulator: str = "Float"
    quantised: Mapping[Storage, int] = field(default_factory=dict)
    column_sums: Mapping[str, float] = field(default_factory=dict)
    table: PlanTensor | None = None

    @property
    def element(self) -> str:
        """The type of what is not quantised."""
        return TYPES[self.scheme.dtype]

    @property
    def products(self) -> dict[str, int]:
        """How many products of which two types the quantised GEMMs are to be."""
        return {self._pair(storage): count for storage, count in self.quantised.items() if count}

    @property
    def form(self) -> str | None:
        """The scheme's own product; None where nothing is quantised."""
        return self._pair(self.scheme.storage) if self.scheme.storage and self.products else None

    def _pair(self, storage: Storage) -> str:
        stored = TYPES[storage.dtype]
        return pair(self.element if storage.weight_only else stored, stored)


@dataclass(frozen=True)
class Shortfall:
    """Where a plan falls short of a rule: the kernel (or the plan) and what it is instead."""

    kernel: str
    got: str


Check = Callable[[Plan, PlanSubject], Iterator[Shortfall]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rule: what is expected, in words, and the check that yields what falls short of it.

    ``rtx_only`` rules rest on what TensorRT-RTX writes into its log and engines, and on its counts;
    full TensorRT has never been seen to build one of these graphs.
    """

    expected: str
    check: Check
    rtx_only: bool = False


def _fused_attention(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    layers = subject.architecture.layers
    if subject.element == "Float" or len(plan.attentions) == layers:
        return  # TensorRT has no fused kernel in FP32
    got = f"{len(plan.attentions)} fused kernels for {layers} layers"
    bare = [k for k in plan.products if k.weight is None and "Attention" in " ".join(k.nodes)]
    for kernel in bare:
        yield Shortfall(kernel.name, f"a product of attention on its own; {got}")
    if not bare:
        yield Shortfall("the plan", got)


def _accumulator(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    for kernel in plan.attentions:
        if kernel.accumulator != subject.accumulator:
            yield Shortfall(kernel.name, f"sums in {kernel.accumulator or 'a type not told'}")


def _quantised_products(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    found: Counter[str] = Counter()
    for kernel in plan.products:
        types = _operand_types(kernel)
        if any(kind in _QUANTISED for kind in types):
            if (form := pair(*types)) in subject.products:
                found[form] += 1
            else:
                yield Shortfall(kernel.name, form)
    for form, count in subject.products.items():
        if found[form] != count:
            yield Shortfall(
                "the plan", f"{found[form]} products {form} for {count} quantised GEMMs"
            )


def _dequantised_weight(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    for kernel in plan.launches:
        sizes = {prod(c.shape): c for c in kernel.constants if _is_quantised_matrix(c)}
        for output in kernel.outputs:
            if output.type not in _QUANTISED and prod(output.shape) in sizes:
                weight = sizes[prod(output.shape)]
                yield Shortfall(kernel.name, f"{weight} → {output} in every call")


def _quantised_table(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    """The table is somewhere, as it is stored, and nowhere in another type."""
    table = subject.table
    if table is None:
        return
    kernels = [(k, c) for k in plan.launches for c in k.constants if c.shape == table.shape]
    for kernel, constant in kernels:
        if constant.type != table.type:
            yield Shortfall(kernel.name, f"the table in {constant.type}")
    if not kernels:
        yield Shortfall("the plan", f"no kernel that holds {table}")


def _int8_overflow(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    for kernel in plan.products:
        weight = kernel.weight
        if weight is None or set(_operand_types(kernel)) != {"Int8"}:
            continue
        for output in kernel.outputs:
            if output.type in _WIDE:
                continue
            alpha = 1.0 if kernel.alpha is None else abs(kernel.alpha)
            most = INT8_MAX * _column_sum(kernel, weight, subject) * alpha
            if most > HALF_MAX:
                yield Shortfall(kernel.name, f"a result in {output.type} of up to {most:.0f}")


def _fp32_product(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    if subject.element == "Float":
        return
    for kernel in plan.products:
        by_design = _is_pooling(kernel, subject) or any(
            node.startswith(_TOKEN_TYPES) for node in kernel.nodes
        )
        if "Float" in _operand_types(kernel) and not by_design:
            yield Shortfall(kernel.name, "×".join(_operand_types(kernel)))


def _is_pooling(kernel: Kernel, subject: PlanSubject) -> bool:
    """The chunk head's product, tokens' weights by their vectors: two inputs, after the layers."""
    return subject.head is HeadName.CHUNKS and kernel.weight is None and kernel.layer is None


def _product_width(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    a = subject.architecture
    own = {a.hidden, 3 * a.hidden, a.intermediate}  # the model's widths are what they are
    for kernel in plan.products:
        if kernel.weight is None or (step := ALIGNMENT.get(kernel.weight.type)) is None:
            continue
        for side, size in zip("KN", kernel.weight.shape[-2:], strict=True):
            if size % step and size not in own:
                yield Shortfall(kernel.name, f"{side} = {size} in {kernel.weight.type}")


def _launches(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    most = LAUNCHES.get((subject.adapter, subject.form))
    counts: dict[int, int] = {}
    for kernel in plan.launches:
        if kernel.layer is not None:
            counts[kernel.layer] = counts.get(kernel.layer, 0) + 1
    if most is None or subject.element == "Float" or not counts:
        return
    for layer in sorted(counts)[1:-1] or [min(counts, key=lambda layer: counts[layer])]:
        if counts[layer] > most:
            yield Shortfall(f"layer {layer}", f"{counts[layer]} launches, at most {most}")


def _mask(plan: Plan, subject: PlanSubject) -> Iterator[Shortfall]:
    """A parser that does not know an input for lengths drops it, and padding is read as text."""
    for kernel in plan.attentions:
        masks = [t for t in kernel.inputs if prod(side for side in t.shape if side > 0) == 1]
        if not masks:
            yield Shortfall(kernel.name, "reads neither mask nor lengths")
        for mask in masks:
            if sum(side < 0 for side in mask.shape) > 2:
                yield Shortfall(kernel.name, f"reads {mask}")


RULES: Mapping[PlanRule, Row] = {
    PlanRule.FUSED_ATTENTION: Row(
        expected="one fused attention kernel a layer", check=_fused_attention
    ),
    PlanRule.ATTENTION_ACCUMULATOR: Row(
        expected="attention's sums in Float, or as --attention-accumulation says",
        check=_accumulator,
        rtx_only=True,
    ),
    PlanRule.QUANTISED_PRODUCTS: Row(
        expected="one product for each quantised GEMM, what is quantised as stored",
        check=_quantised_products,
    ),
    PlanRule.DEQUANTISED_WEIGHT: Row(
        expected="quantised weights to stay quantised", check=_dequantised_weight
    ),
    PlanRule.QUANTISED_TABLE: Row(
        expected="a quantised table of embeddings held as it is stored", check=_quantised_table
    ),
    PlanRule.INT8_OVERFLOW: Row(
        expected=f"results of Int8 products within {HALF_MAX:.0f}, or in Float",
        check=_int8_overflow,
        rtx_only=True,
    ),
    PlanRule.FP32_PRODUCT: Row(
        expected="no product in Float but the token types' and the chunk head's",
        check=_fp32_product,
    ),
    PlanRule.PRODUCT_WIDTH: Row(
        expected="K and N in multiples of 8, of 16 for Int8 and FP8, of 32 for Int4",
        check=_product_width,
    ),
    PlanRule.LAUNCHES: Row(
        expected="no more launches a layer than this form has", check=_launches, rtx_only=True
    ),
    PlanRule.MASK: Row(
        expected="attention to read which keys count, batch × sequence values at most",
        check=_mask,
        rtx_only=True,
    ),
}


def shortfalls(plan: Plan, subject: PlanSubject) -> dict[PlanRule, tuple[Shortfall, ...]]:
    """Each rule that a plan breaks, with where."""
    rtx = plan.builder.startswith("tensorrt_rtx")
    found = {
        rule: tuple(row.check(plan, subject))
        for rule, row in RULES.items()
        if rtx or not row.rtx_only
    }
    return {rule: places for rule, places in found.items() if places}


def check_plans(
    plans: Mapping[str, tuple[Plan, ...]], subject: PlanSubject, allowed: frozenset[PlanRule]
) -> frozenset[PlanRule]:
    """The rules that the engines' plans break and that are ``allowed`` to be broken.

    Raises :class:`GateError` with engine, rule, kernel and what was expected for any other.
    """
    waived: set[PlanRule] = set()
    for engine, profiles in plans.items():
        for plan in profiles:
            found = shortfalls(plan, subject)
            if refused := [rule for rule in found if rule not in allowed]:
                raise GateError(_refusal(engine, found, refused))
            waived |= found.keys()
    return frozenset(waived)


def _refusal(
    engine: str, broken: Mapping[PlanRule, tuple[Shortfall, ...]], refused: list[PlanRule]
) -> str:
    first, places = refused[0], broken[refused[0]]
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    others = f"; it also breaks {', '.join(refused[1:])}" if refused[1:] else ""
    return (
        f"{engine}: the compiled plan breaks the rule {first}: {places[0].kernel}: "
        f"{places[0].got}{more}, expected {RULES[first].expected}{others}; nothing was published; "
        f"--allow-plan {','.join(refused)} publishes it all the same"
    )


def _operand_types(kernel: Kernel) -> list[str]:
    """The types of a product's two operands."""
    return [tensor.type for tensor in factors(kernel) or ()]


def _is_quantised_matrix(tensor: PlanTensor) -> bool:
    return tensor.type in _QUANTISED and tensor.is_matrix


def _column_sum(kernel: Kernel, weight: PlanTensor, subject: PlanSubject) -> float:
    """The largest sum of a column's magnitudes: the weights' own, else the most there can be."""
    known = (
        value
        for gemm, value in subject.column_sums.items()
        if any(node.startswith(f"{gemm}.") for node in kernel.nodes)
    )
    return max(known, default=INT8_MAX * weight.shape[-2])
