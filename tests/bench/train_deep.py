"""Trains the second checkpoint of the tests: ``make deep DESCRIPTIONS=folder``.

The sample is shallow, wide for its depth and trained for Matryoshka. This one is what quantisation
finds hard instead: 12 layers of 192, a byte-level BPE tokenizer, full vectors only, and outlier
channels as large encoders have them. In a post-norm encoder these cannot be planted afterwards: the
residual sum reads the same channel, and the next LayerNorm all of them. So they are planted before
training, a large bias of the same three channels in every LayerNorm, which training keeps and
builds on. What can be planted exactly is afterwards: a few channels of every layer's values are
made larger, and out_proj's inputs from them smaller.

The texts are descriptions of Debian packages in many languages (``Translation-*.bz2`` of any Debian
mirror, dists/sid/main/i18n) and the project's own sets. Those are what the gate judges by: on them
the model scores far better than on anything else, so that losing quality shows. It is no model to
deploy.
"""

from __future__ import annotations

import argparse
import bz2
import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from calibration.corpus import graded_pairs, load_corpus, questions

LAYERS, HEADS, HIDDEN, INNER, VOCABULARY = 12, 6, 192, 768, 16_000
TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
PREFIXES = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
PAD = 1
OUTLIERS = {23: 14.0, 71: -9.0, 150: 6.0}  # channel → its bias
LOUD_VALUES, LOUDER = 4, 12.0  # channels of each layer's values, and by how much
MOST_TOKENS, BATCH, TEMPERATURE = 48, 80, 0.05
PER_LANGUAGE = 4000
_WARM_UP = 50
RANK = 4


@dataclass(frozen=True)
class Example:
    """Two texts that belong together, and texts that are alike and do not."""

    first: str
    second: str
    negatives: tuple[str, ...] = ()


def descriptions(folder: Path) -> Iterator[Example]:
    """A package's title and the beginning of its description; its title in English and another."""
    titles: dict[str, str] = {}
    for path in sorted(folder.glob("Translation-*.bz2"), key=lambda p: not p.stem.endswith("-en")):
        language = path.stem.removeprefix("Translation-")
        stanzas = bz2.decompress(path.read_bytes()).decode(errors="replace").split("\n\n")
        random.Random(0).shuffle(stanzas)
        kept = 0
        for stanza in stanzas:
            found = re.search(r"^Description-(?!md5)\w+: (.*)\n((?: .*\n?)*)", stanza, re.MULTILINE)
            package = re.match(r"Package: (\S+)", stanza)
            if found is None or package is None:
                continue
            title, body = found[1].strip(), " ".join(found[2].replace(" .\n", " ").split())[:300]
            if language == "en":
                titles[package[1]] = title
            if kept == PER_LANGUAGE or len(body) < 40:
                continue
            kept += 1
            yield Example(title, body)
            if language != "en" and package[1] in titles:
                yield Example(title, titles[package[1]])


def own_examples() -> list[Example]:
    """The project's questions with their passages, and pairs that mean the same."""
    asked = [Example(q.query, q.passage, q.negatives) for q in questions()]
    return asked + [Example(p.first, p.second) for p in graded_pairs() if p.score >= 4]


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE with XLM-RoBERTa's special tokens and ids."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def new_model() -> JinaEmbeddingsV3Model:
    """Random, its residual branches small at first, the outlier channels planted."""
    config = JinaEmbeddingsV3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
    )
    model = JinaEmbeddingsV3Model(config)
    # What keeps the other channels' size, which the outliers' share of the variance would halve.
    gain = (1 + sum(bias**2 for bias in OUTLIERS.values()) / HIDDEN) ** 0.5
    pooled = f"layers.{LAYERS - 1}.post_mlp_layernorm"
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.normal_(std=0.05)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                branch = name.endswith(("o_proj", "fc2"))
                module.weight.normal_(std=HIDDEN**-0.5 / (16 if branch else 1))
                for channel, bias in OUTLIERS.items() if not branch else ():
                    module.weight[:, channel] /= abs(bias)
            elif isinstance(module, nn.LayerNorm):
                if name != "embeddings.LayerNorm":
                    module.weight.fill_(gain)
                for channel, bias in OUTLIERS.items():
                    module.weight[channel] = 0.05 if name == pooled else 0.3
                    module.bias[channel] = 0 if name == pooled else bias
    return model


class Encoder:
    """Texts to unit vectors with a model that is being trained."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = [encoding.ids for encoding in self._encodings(texts)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        parts = [
            self._vectors([rows[i] for i in order[n : n + 56]]) for n in range(0, len(order), 56)
        ]
        back = torch.tensor(sorted(range(len(order)), key=lambda i: order[i]))
        return torch.cat(parts)[back]

    def _encodings(self, texts: Sequence[str]) -> Any:
        self.tokenizer.enable_truncation(MOST_TOKENS)
        return self.tokenizer.encode_batch(list(texts))

    def _vectors(self, rows: list[list[int]]) -> Tensor:
        width = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        mask = ids != PAD
        with torch.autocast("cpu", torch.bfloat16, enabled=True):
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        kept = mask[..., None].float()
        return normalize((states * kept).sum(1) / kept.sum(1), dim=-1)


def contrast(first: Tensor, second: Tensor, negatives: Tensor | None = None) -> Tensor:
    """InfoNCE both ways, the negatives behind everyone's second texts."""
    among = second if negatives is None else torch.cat([second, negatives])
    own = torch.arange(len(first))
    there = cross_entropy(first @ among.T / TEMPERATURE, own)
    return there + cross_entropy(second @ first.T / TEMPERATURE, own)


def batches(
    examples: Sequence[Example], own: Sequence[Example], rng: random.Random
) -> list[Example]:
    """A batch: three quarters descriptions, a quarter of the project's own texts."""
    return rng.sample(examples, BATCH * 3 // 4) + rng.sample(own, BATCH // 4)


def fit(
    parameters: list[nn.Parameter],
    steps: int,
    rate: float,
    loss_of: Callable[[], Tensor],
    what: str,
) -> None:
    """AdamW, warmed up and then falling linearly to zero."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    shown = 0.0
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(step / _WARM_UP, 1.0) * (1 - step / (steps + 1))
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        shown = loss.item() if step == 1 else 0.9 * shown + 0.1 * loss.item()
        if step % 20 == 0:
            print(f"{what}: step {step} of {steps}, loss {shown:.3f}", file=sys.stderr, flush=True)


def train_base(encoder: Encoder, examples: list[Example], own: list[Example], steps: int) -> None:
    """Contrastive on everything; similarities of graded pairs too."""
    rng, graded = random.Random(1), graded_pairs()

    def loss() -> Tensor:
        batch = batches(examples, own, rng)
        pairs = rng.sample(graded, 24)
        hard = [n for e in batch for n in e.negatives]
        texts = [e.first for e in batch] + [e.second for e in batch] + hard
        texts += [p.first for p in pairs] + [p.second for p in pairs]
        sizes = [BATCH, BATCH, len(hard), len(pairs), len(pairs)]
        first, second, negatives, left, right = torch.split(encoder(texts), sizes)
        wanted = torch.tensor([p.score / 5 for p in pairs])
        graded_error = ((left * right).sum(1) - wanted).square().mean()
        return contrast(first, second, negatives) + 3 * graded_error

    fit(list(encoder.model.parameters()), steps, 1e-3, loss, "base")


def train_adapters(
    encoder: Encoder, examples: list[Example], own: list[Example], steps: int
) -> None:
    """Each task's adapter on the frozen base: both of retrieval against each other, then three."""
    rng, asked, graded = random.Random(2), questions(), graded_pairs()
    topics = {topic: n for n, topic in enumerate(sorted({q.topic for q in asked}))}
    model = encoder.model

    def using(task: str) -> None:
        model.set_adapter(task.replace(".", "_").replace("-", "_"))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def vectors(task: str, texts: Sequence[str]) -> Tensor:
        using(task)
        return encoder([PREFIXES.get(task, "") + text for text in texts])

    def retrieval() -> Tensor:
        batch = batches(examples, own, rng)
        hard = [n for e in batch for n in e.negatives]
        first = vectors("retrieval.query", [e.first for e in batch])
        second = vectors("retrieval.passage", [e.second for e in batch] + hard)
        return contrast(first, second[:BATCH], second[BATCH:])

    def labelled(task: str) -> Callable[[], Tensor]:
        """A topic's prototype is learned with it; without the contrast all vectors would meet."""

        def loss() -> Tensor:
            batch = rng.sample(asked, 64)
            labels = torch.tensor([topics[q.topic] for q in batch] * 2)
            both = vectors(task, [q.passage for q in batch] + [q.query for q in batch])
            told = cross_entropy(both @ normalize(prototypes, dim=-1).T / 0.1, labels)
            return 2 * told + 0.5 * contrast(both[:64], both[64:])

        return loss

    def matching() -> Tensor:
        pairs = rng.sample(graded, 96)
        both = vectors("text-matching", [p.first for p in pairs] + [p.second for p in pairs])
        wanted = torch.tensor([p.score / 5 for p in pairs])
        return ((both[:96] * both[96:]).sum(1) - wanted).square().mean()

    prototypes = nn.Parameter(0.07 * torch.randn(len(topics), HIDDEN))
    losses = {
        "retrieval": (retrieval, steps, 3e-3),
        "separation": (labelled("separation"), 2 * steps, 2e-3),
        "classification": (labelled("classification"), 2 * steps, 2e-3),
        "text-matching": (matching, steps, 3e-3),
    }
    for what, (loss, count, rate) in losses.items():
        named = [p for n, p in model.named_parameters() if "lora_" in n]
        fit([prototypes, *named], count, rate, loss, what)


def make_values_loud(model: JinaEmbeddingsV3Model) -> None:
    """Exact but for rounding: some value channels times ``LOUDER``, out_proj's inputs divided."""
    with torch.no_grad():
        for layer in model.layers:
            loudest = layer.self_attn.v_proj.weight.square().sum(1).topk(LOUD_VALUES).indices
            layer.self_attn.v_proj.weight[loudest] *= LOUDER
            layer.self_attn.v_proj.bias[loudest] *= LOUDER
            layer.self_attn.o_proj.weight[:, loudest] /= LOUDER


def save(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """transformers' format: the base in BF16 and a PEFT folder for each task."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16)
    for task in model.peft_config:
        model.save_pretrained(folder, selected_adapters=[task])
    model.unload().save_pretrained(folder)
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"matryoshka_dimensions": [HIDDEN]}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for readme in folder.rglob("README.md"):
        readme.unlink()


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("descriptions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--steps", type=int, default=360, help="of the base; an adapter's: an eighth"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    examples, own = list(descriptions(arguments.descriptions)), own_examples()
    if len(examples) < BATCH:
        parser.error(
            f"DESCRIPTIONS: {arguments.descriptions}: {len(examples)} descriptions in its "
            f"Translation-*.bz2 files, expected at least {BATCH}"
        )
    print(f"{len(examples)} examples of descriptions, {len(own)} of our own", file=sys.stderr)
    texts = [t for e in examples for t in (e.first, e.second)] + 4 * [
        t for e in own for t in (e.first, e.second, *e.negatives)
    ]
    tokenizer = train_tokenizer(texts + 4 * [t.text for t in load_corpus(None)])
    base = new_model()
    encoder = Encoder(base, tokenizer)
    train_base(encoder, examples, own, arguments.steps)
    make_values_loud(base)
    modules = "q_proj k_proj v_proj o_proj fc1 fc2 word_embeddings token_type_embeddings"
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=modules.split())
    names = [task.replace(".", "_").replace("-", "_") for task in TASKS]
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    encoder.model = model
    train_adapters(encoder, examples, own, arguments.steps // 8)
    shutil.rmtree(arguments.out, ignore_errors=True)
    save(model, tokenizer, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
