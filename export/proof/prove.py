"""``adaptrt prove``: run every step, judge every section, write the report."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from export.bundle.staging import check_hashes, write_json
from export.checkpoint.identity import model_sha256
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE, SAMPLE_NAME, resolve
from export.console.progress import log, stage
from export.gate.texts import verified_tasks
from export.proof.page import proof_page
from export.proof.records import SCHEMA, VERSION, Proof, Verdict
from export.proof.sections import judge_sections
from export.proof.steps import Evidence, execute
from export.proof.store import Store
from export.proof.subject import Subject, executed, find_runners
from export.proof.texts import LEAST_TOKENS, proof_texts
from export.proof.work import all_steps, languages_name
from runtimes.cpu_kinds import read_cpu
from runtimes.errors import GateError, InputError, shown
from runtimes.files import replacing, require_file_place
from runtimes.manifest import Manifest, read_manifest
from runtimes.text.tokenizer_file import load_tokenizer

JSON_FILE, PAGE_FILE = "proof.json", "proof.html"
PLACE = Path("build/proof")


@dataclass(frozen=True, kw_only=True)
class ProofSpec:
    """What is proved, against what, up to which length; ``out`` None is a folder in build/proof.

    ``adapter_path`` is the user's own adapter, where the bundle was built with one.
    """

    bundle: Path
    reference: str | None = None
    revision: str | None = None
    adapter_path: Path | None = None
    max_tokens: int | None = None
    out: Path | None = None
    fresh: bool = False

    @property
    def place(self) -> Path:
        """Where report and kept work go."""
        return self.out or PLACE / self.bundle.resolve().name


def proof_spec(arguments: Namespace) -> ProofSpec:
    """What the options of ``adaptrt prove`` ask for."""
    return ProofSpec(
        bundle=arguments.bundle,
        reference=arguments.reference,
        revision=arguments.revision,
        adapter_path=arguments.adapter_path,
        max_tokens=arguments.max_tokens,
        out=arguments.out,
        fresh=arguments.fresh,
    )


def prove(spec: ProofSpec) -> Proof:
    """Prove a bundle and write the report, whatever it says.

    Raises :class:`InputError`, before anything is written, for what cannot be used as given. Work
    that is finished is kept in ``resume`` and not done again.
    """
    manifest = read_manifest(spec.bundle)
    place = _check_place(spec)
    longest = _longest(spec, manifest)
    subject = _open(spec, manifest, _checkpoint(spec, manifest), longest)
    store = Store(place / "resume" / subject.key, fresh=spec.fresh)
    begun = store.begun
    evidence = Evidence(results={}, failed={})
    if _as_built(spec.bundle):
        evidence = execute(all_steps(subject), store, manifest.architecture)
    with stage("judging"):
        proof = _proof(subject, evidence, begun)
    _write(place, proof)
    return proof


def require_proved(proof: Proof, place: Path) -> None:
    """Raise :class:`GateError` where a section failed."""
    if proof.failed:
        names = "; ".join(f"{s.name}: {s.result.reason}" for s in proof.failed)
        raise GateError(f"not proved, {place / PAGE_FILE} says more: {names}")


def text_lines(proof: Proof, place: Path) -> list[str]:
    """What the command prints: a line for each section, then where the report is."""
    lines = [
        f"{s.result.verdict.upper():<20} {s.title}{f': {s.result.reason}' * bool(s.result.reason)}"
        for s in proof.sections
    ]
    return [*lines, str(place / PAGE_FILE)]


def _check_place(spec: ProofSpec) -> Path:
    place = spec.place
    inside = spec.bundle.resolve()
    if place.resolve() == inside or inside in place.resolve().parents:
        raise InputError(
            f"--out: {shown(str(place))} is in the bundle, whose files are hashed; name another"
        )
    for name in (JSON_FILE, PAGE_FILE):
        require_file_place(place / name)
    return place


def _longest(spec: ProofSpec, manifest: Manifest) -> int:
    most = manifest.max_tokens
    asked = most if spec.max_tokens is None else spec.max_tokens
    if not LEAST_TOKENS <= asked <= most:
        raise InputError(
            f"--max-tokens: got {asked}, expected {LEAST_TOKENS} to {most}, the bundle's"
        )
    return asked


def _checkpoint(spec: ProofSpec, manifest: Manifest) -> Checkpoint:
    """The one that the bundle was built from, and no other."""
    model = spec.reference
    if model is None and spec.revision is not None:
        raise InputError("--revision: is of the checkpoint's hub id; add --reference NAME")
    if model is None and manifest.model.name == SAMPLE_NAME:
        model = str(SAMPLE)
    if model is None:
        raise InputError(
            f"--reference: none given, and {shown(str(spec.bundle))} was built from "
            f"{shown(manifest.model.name)}; name that checkpoint, a folder or a hub id"
        )
    with stage("checkpoint"):
        source = resolve(model, spec.revision)
        checkpoint = open_checkpoint(
            source.folder,
            name=source.name,
            revision=source.revision,
            adapter_path=spec.adapter_path,
            adapter_task=manifest.tasks[-1],  # the user's own is behind the published ones
        )
        if spec.adapter_path is not None:
            checkpoint.adapter(manifest.tasks[-1])  # what cannot be read has no part in the hash
        found = model_sha256(checkpoint)
    if found != manifest.model.sha256:
        raise InputError(
            f"--reference: {shown(model)} is {found[:16]}…, but {shown(str(spec.bundle))} was "
            f"built from {manifest.model.sha256[:16]}…, {shown(manifest.model.name)}; name that "
            "one's checkpoint, with --adapter-path where it was built with one"
        )
    return checkpoint


def _open(spec: ProofSpec, manifest: Manifest, checkpoint: Checkpoint, longest: int) -> Subject:
    tokenizer = load_tokenizer(spec.bundle, manifest)
    runners, absent = find_runners(spec.bundle, manifest, longest)
    return Subject(
        folder=spec.bundle,
        manifest=manifest,
        tokenizer=tokenizer,
        checkpoint=checkpoint,
        texts=proof_texts(manifest, tokenizer, longest),
        runners=runners,
        absent=absent,
    )


def _as_built(bundle: Path) -> bool:
    """Whether anything may be executed: files that were changed can break more than a proof."""
    with stage("hashing"):
        try:
            check_hashes(bundle)
        except GateError as error:
            log.warning("%s", error)
            return False
    return True


def _proof(subject: Subject, evidence: Evidence, begun: str) -> Proof:
    names = {
        runner.label: evidence.results[name].by
        for runner in subject.runners
        if (name := languages_name(runner.label, subject.texts.task)) in evidence
    }
    proof = Proof(
        schema=SCHEMA,
        version=VERSION,
        verdict=Verdict.PROVED,
        bundle=subject.folder.resolve().name,
        subject=subject.speaker.label,
        facts=_facts(subject),
        executed=executed(subject, names),
        sections=tuple(judge_sections(subject, evidence)),
        date=begun,
        machine=_machine(),
        seconds=round(evidence.seconds, 1),
    )
    return replace(proof, verdict=Verdict.FAILED) if proof.failed else proof


def _machine() -> str:
    cpu = read_cpu()
    return f"{cpu.model}, {cpu.cores} cores"


def _facts(subject: Subject) -> Mapping[str, str]:
    manifest, gate = subject.manifest, subject.manifest.gate
    tasks = ", ".join(verified_tasks(manifest))
    held = "all" if manifest.vocabulary is None else f"{manifest.vocabulary.rows:,}"
    return {
        "model": manifest.model.name,
        "model, SHA-256": manifest.model.sha256[:12],
        "precision": manifest.precision.value,
        "built for": manifest.target.name.value,
        "adapter": manifest.adapter.value,
        "tasks": tasks,
        "head": manifest.head.value,
        "interface": manifest.interface.value,
        "word embeddings": manifest.embeddings.value,
        "tokens with a row": held,
        "longest text, tokens": f"{subject.texts.longest} of {manifest.max_tokens}",
        "gate": f"cosine at least {gate.min_cosine}, mean {gate.mean_cosine}",
        "built by": f"adaptrt {manifest.versions.get('adaptrt', '?')}",
    }


def _write(place: Path, proof: Proof) -> None:
    """Both files appear whole, the page last."""
    place.mkdir(parents=True, exist_ok=True)
    with replacing(place / JSON_FILE) as staged:
        write_json(staged, proof.to_json())
    with replacing(place / PAGE_FILE) as staged:
        staged.write_text(proof_page(proof), encoding="utf-8")
