"""``fingerprint.json``: what determines the vectors of each task of a bundle, and its canaries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.console.progress import log
from export.gate.compare import embed
from export.gate.texts import ParityText, task_number, verified_tasks
from export.gate.traced import gate_executors
from runtimes.arrays import Vectors
from runtimes.bundle_files import FINGERPRINT_FILE, TOKENIZER_FILE
from runtimes.canaries import CANARIES, LEAST
from runtimes.choices import FileKind
from runtimes.executors.base import Runtime
from runtimes.fingerprint import BundleFingerprints, make_fingerprint
from runtimes.manifest import Manifest, make_artifact
from runtimes.open import open_runtime
from runtimes.text.tokens import TextTokenizer
from runtimes.text.vocabulary import holds


def write_fingerprints(folder: Path, draft: Manifest, tokenizer: TextTokenizer) -> None:
    """Of each task at full length, by the graph that spoke for the target in the gate.

    Whatever engine will run, that graph has its types, and runs here. Canaries that are longer
    than the bundle takes, or of tokens that it does not hold, are left out; a bundle so short that
    fewer than four are left has no fingerprint.
    """
    named = make_artifact(folder, TOKENIZER_FILE, FileKind.TOKENIZER)
    manifest = replace(draft, artifacts=(*draft.artifacts, named))
    ones = []
    with open_runtime(folder, manifest, gate_executors(draft)[0]) as runtime:
        for task in verified_tasks(manifest):
            vectors = _canaries(runtime, manifest, tokenizer, task)
            if sum(vector is not None for vector in vectors) < LEAST:
                log.warning(
                    "warning: %s: too few canary texts have at most %d tokens; no %s was written",
                    task,
                    manifest.max_tokens,
                    FINGERPRINT_FILE,
                )
                return
            ones.append(
                make_fingerprint(manifest, task=task, vectors=vectors, executed=runtime.name)
            )
    (folder / FINGERPRINT_FILE).write_bytes(BundleFingerprints(fingerprints=tuple(ones)).to_bytes())


def _canaries(
    runtime: Runtime, manifest: Manifest, tokenizer: TextTokenizer, task: str
) -> list[Vectors | None]:
    prefix, number = manifest.prefixes[task], task_number(manifest, task)
    rows = tokenizer.tokenize([prefix + text for text in CANARIES])
    fitting = [
        i
        for i, ids in enumerate(rows)
        if len(ids) <= tokenizer.max_tokens and holds(tokenizer, ids)
    ]
    texts = [ParityText(f"canary {i}", rows[i], task, number) for i in fitting]
    vectors = embed(runtime, texts, tokenizer)
    found = dict(zip(fitting, vectors, strict=True))
    return [found.get(i) for i in range(len(CANARIES))]
