"""A bundle as the module of a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import copytree
from typing import Any, Self, Unpack

from adaptrt.integrations.sides import Options, Side, choose_task, missing
from runtimes.arguments import check_whole
from runtimes.embedder import Embedder

try:
    import torch
    from sentence_transformers.base.modules import InputModule
except ModuleNotFoundError as error:
    raise missing("sentence-transformers 6", "sentence-transformers") from error

_SIDES = {"query": Side.QUERY, "document": Side.PASSAGE}  # as encode_query and encode_document say


class Bundle(InputModule):
    """``SentenceTransformer(modules=[Bundle(folder)])`` gives the embedder's vectors.

    The task is the one of a merged bundle; of a switchable one ``task=`` of ``encode``, else
    ``task`` below. ``encode_query`` and ``encode_document`` take retrieval.query and
    retrieval.passage, and are refused by a merged bundle of the other side. The task's instruction
    is put before each text unless a prompt that is not empty replaces it.
    """

    save_in_root = False  # the files beside modules.json are sentence-transformers' own

    def __init__(
        self, folder: str | Path, *, task: str | None = None, **options: Unpack[Options]
    ) -> None:
        """Open a bundle; ``options`` say where it runs, as ``Embedder.load`` takes them."""
        super().__init__()
        self.folder, self.task = Path(folder), task
        self.embedder = Embedder.load(folder, **options)
        self.max_seq_length = self.embedder.manifest.max_tokens
        self.register_buffer("_like", torch.empty(0), persistent=False)  # where vectors are put

    def on_model_ready(self, model: Any) -> None:
        """Instructions by name, for ``prompt_name=``; those that the model was given stay."""
        known = self.embedder.manifest.prefixes
        sides = {name: known[side] for name, side in _SIDES.items() if side in known}
        for name, text in {**known, **sides}.items():
            model.prompts[name] = model.prompts.get(name) or text

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Texts stay texts: the embedder has its own tokenizer and instructions."""
        texts = [prompt + text if text else text for text in inputs] if prompt else list(inputs)
        return {"texts": texts, "prefix": not prompt, "bundle_task": self._task(task)}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """One unit vector per text, ``[n, hidden]``."""
        longest = check_whole("max_seq_length", self.max_seq_length, 3)
        self.embedder.tokenizer.max_tokens = min(longest, self.embedder.manifest.max_tokens)
        vectors = self.embedder.encode(
            features["texts"], task=features["bundle_task"], prefix=features["prefix"]
        )
        return {**features, "sentence_embedding": torch.from_numpy(vectors).to(self._like)}

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self.embedder.dimensions[-1]

    def get_config_dict(self) -> dict[str, Any]:
        """What the model's ``repr`` shows."""
        return {"folder": str(self.folder), "task": self.task}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copy the bundle."""
        if Path(output_path).resolve() != self.folder.resolve():
            copytree(self.folder, output_path, dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, *_: Any, **given: Any) -> Self:
        """Open what ``save`` wrote; ``model_kwargs`` are the arguments of this class."""
        where = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        options = given.get("model_kwargs") or {}
        folder = cls.load_dir_path(model_name_or_path, **{k: given[k] for k in where if k in given})
        return cls(folder, **options)

    def _task(self, asked: str | None) -> str | None:
        side = _SIDES.get(asked or "")
        if side is None:
            return asked or self.task
        return choose_task(self.embedder.manifest, side)
