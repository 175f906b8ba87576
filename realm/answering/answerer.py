"""A fine-tuned model as one folder: retriever, span reader, settings and a model card.

MODEL/
  manifest.json   what it is, from which step
  config.json     the whole configuration of its fine-tuning
  encoder/        the retriever, passage side included (none if it is BM25)   } each opens in transformers
  reader/         the span reader                                             }
  README.md       the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from realm import __version__, files
from realm.answering.packing import ANSWERER, VERSION, model_folder
from realm.config import from_json, to_json
from realm.errors import ArtefactError, UsageError
from realm.models.encoders import DenseEncoder
from realm.models.span import SpanReader
from realm.models.storage import SETTINGS
from realm.settings_finetune import FinetuneConfig

RUN_FORMAT = "realm fine-tuning run"
"""As `workflows.run` writes it, which a model is told from without loading that room."""
CARD = "README.md"


class Part(Protocol):
    """A network of the model."""

    def save_pretrained(self, folder: Path) -> None: ...

    def fingerprint(self) -> str: ...


def save_answerer(
    folder: Path, networks: Mapping[str, Part], config: FinetuneConfig, *, card: str, facts: dict[str, Any]
) -> None:
    """Write the folder, whole or not at all; an older one in its place is replaced.

    networks: `reader`, and `encoder` unless the retriever is BM25.
    """
    with files.staged_folder(folder) as staged:
        for name, network in networks.items():
            network.save_pretrained(staged / name)
        files.write_json(staged / "config.json", to_json(config))
        files.write_text(staged / CARD, card)
        own = {name: network.fingerprint() for name, network in networks.items()}
        files.write_manifest(staged, format=ANSWERER, version=VERSION, **facts, **own)


def is_answerer(name: str | Path) -> bool:
    """Whether `name` is a fine-tuned model (a folder, a packed file, a name of the catalogue), or a run of
    fine-tuning."""
    path = model_folder(name)
    if (path / "run.json").exists():
        return bool(files.read_json(path / "run.json").get("format") == RUN_FORMAT)
    place = path / files.MANIFEST
    manifest = files.read_json(place) if place.is_file() else None
    return isinstance(manifest, dict) and manifest.get("format") == ANSWERER


def answerer_folder(name: str | Path) -> Path:
    """The model folder of what `is_answerer`. ArtefactError when there is none."""
    path = model_folder(name)
    folder = path / "model" if (path / "run.json").exists() else path
    if not (folder / files.MANIFEST).exists():
        raise ArtefactError(f"{path} holds no fine-tuned model: expected a folder that `realm finetune` wrote, whole")
    files.read_manifest(folder, format=ANSWERER, version=VERSION)
    return folder


def model_fingerprint(place: Path, config: Path | None = None) -> str:
    """Of everything that a model's own answers depend on, without opening it: its settings, and those of its networks
    with the fingerprints that they were saved under. What `realm calibrate` wrote is no part of it.

    place: a fine-tuned model, or a run of it; else a folder with the parts of another model, and `config` its settings.
    ArtefactError when it is none.
    """
    if config is None:
        place = answerer_folder(place)
        config = place / "config.json"
    told = [config, *(place / part / SETTINGS for part in ("encoder", "reader"))]
    return files.fingerprint(*(json.dumps(files.read_json(f), sort_keys=True) if f.exists() else "" for f in told))


def open_answerer(path: str | Path, device: str = "cpu") -> tuple[DenseEncoder, SpanReader, FinetuneConfig]:
    """Retriever, reader and settings of a model folder, or of a fine-tuning run's best checkpoint, ready to answer.

    ArtefactError when it is neither. UsageError when its retriever is BM25, which is no network: see `open_reader`.
    """
    reader, config = open_reader(path, device)
    if config.qa.retriever == "bm25":
        raise UsageError(
            f"{path} finds its passages by {config.qa.retriever}: expected a model with a retriever of its own; "
            "`realm evaluate` judges both"
        )
    return DenseEncoder.from_pretrained(answerer_folder(path) / "encoder").to(device).eval(), reader, config


def open_reader(path: str | Path, device: str = "cpu") -> tuple[SpanReader, FinetuneConfig]:
    """The reader and the settings of any model that `realm finetune` wrote, ready to answer. ArtefactError when it is
    none."""
    folder = answerer_folder(path)
    config = from_json(FinetuneConfig, files.read_json(folder / "config.json"))
    return SpanReader.from_pretrained(folder / "reader").to(device).eval(), config


def place_name(place: str) -> str:
    """What a model is called elsewhere than here: the folder's own name, and of a part of a run the path in it. Names
    of the catalogue and the hub stay as they are."""
    path = Path(place)
    if not path.is_absolute():
        return place
    inside = path.parts.index("checkpoints") - 1 if "checkpoints" in path.parts else -1
    return "/".join(path.parts[inside:])


def model_card(
    name: str,
    config: FinetuneConfig,
    facts: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]],
    *,
    best_step: int,
    more: Sequence[str] = (),
    calibrated: bool = False,
) -> str:
    """What the model is, what it learnt from and what it can do, in Markdown.

    facts: of the run: `parents`, `questions` (the counts of the set), `steps`, `licence`. curve: figures at each
    checkpoint. more: lines on the training. calibrated: whether a calibration lies beside it.
    """
    qa, reader, parents = config.qa, config.reader, facts["parents"]
    best = next((point for point in curve if point["step"] == best_step), {})
    counts = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in facts["questions"].items() if value)
    words = qa.retriever == "bm25"
    found = ", its word pieces: BM25 retrieves" if words else ""
    names = [key for key in best if key not in ("step", "questions", "seconds")]
    lines = [
        f"# {name}",
        "",
        "Answers questions from the passages of a knowledge base: a retriever finds passages, a reader picks the span "
        f"that answers (Lee et al. 2019; Guu et al. 2020). Fine-tuned by realm {__version__}.",
        "",
        "## Training",
        "",
        f"- Start: {place_name(parents['model'])} ({parents['start']}){found}; "
        f"the reader began as {place_name(str(reader.model))}"
        f"{f', its first {reader.layers} layers' if reader.layers is not None else ''}.",
        f"- Questions: {Path(parents['questions']).name} ({counts}).",
        f"- Knowledge base: {Path(parents['knowledge_base']).name}, version {parents['knowledge_base_version']}, "
        f"snapshot {parents['snapshot']}.",
        f"- {facts['steps']:,} steps of {qa.batch_size * qa.accumulation} questions; {qa.num_passages} passages read, "
        f"{0 if words else qa.num_early:,} in the early loss; softmax over spans: {qa.level}; passages {qa.documents}; "
        f"labelled passages: {qa.labelled}; seed {config.loop.seed}.",
        f"- This is the checkpoint of step {best_step:,}, the best of {len(curve)}.",
        *(f"- {line}" for line in more),
        "",
        "## Measured on the dev questions",
        "",
        f"{best.get('questions', 0):,} questions, {Path(parents['dev']).name if parents.get('dev') else 'held out'}; "
        "the checkpoint was chosen on them, so they flatter it.",
        "",
        "| step | " + " | ".join(names) + " |",
        "|" + "---|" * (len(names) + 1),
        *(f"| {p['step']:,} | " + " | ".join(f"{p[key]:.3f}" for key in names) + " |" for p in curve),
        "",
        f"Exact match by the convention {config.questions.convention}.",
        "",
        "## Limits",
        "",
        f"- An answer is a span of at most {reader.max_width} word pieces of one passage; it can't count, compare or "
        "combine.",
        "- Its confidence was calibrated on other questions and documents (calibration.json): measure it on yours."
        if calibrated
        else "- Its confidence is not calibrated, and it answers every question, answerable or not.",
        "- It knows the language and the kind of text and questions it learnt from.",
        "- What passages say is not checked.",
        "",
        "## Licence",
        "",
        facts["licence"] or "Not stated. Weights inherit what the start's and the questions' licences ask for.",
    ]
    return "\n".join(lines) + "\n"
