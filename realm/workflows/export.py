"""A run as a model to give away: one folder, or one small file, with a card that says what it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from realm import __version__, files
from realm.answering.ask import Realm
from realm.answering.pretrained import FORMAT, locate, pack_model, save_model
from realm.config import PretrainConfig
from realm.errors import ArtefactError
from realm.workflows.comparison import compare
from realm.workflows.run import Run

PACKED = ".safetensors"


def export(run: Path, out: Path, *, licence: str = "", data: str = "") -> dict[str, Any]:
    """Write a run's newest checkpoint as a model: a folder, or packed into one file when `out` ends in .safetensors.

    licence, data: what the card says of them. Returns place and size. ArtefactError when `out` is something else's
    place, or the run isn't trained.
    """
    found = Run(run)
    facts = found.facts()
    if out.suffix == PACKED and out.exists():
        raise ArtefactError(f"{out} exists: expected a new file; nothing was written")
    realm = Realm.from_pretrained(run)
    card = model_card(found, licence=licence, data=data)
    about = {
        "made_from": {
            "created": facts["created"],
            "git_commit": facts["git_commit"],
            "seed": facts["seed"],
            "snapshot": facts["parents"]["snapshot"],
            "checkpoint": locate(run)[0].name,
        }
    }
    if out.suffix != PACKED:
        save_model(out, realm.encoder, realm.reader, realm.config, card=card, facts=about)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    else:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            save_model(folder, realm.encoder, realm.reader, realm.config, card=card, facts=about)
            size = pack_model(folder, out)
    sha256 = files.sha256_of(out) if out.is_file() else None
    return {"format": FORMAT, "path": str(out), "bytes": size, "sha256": sha256}


def model_card(run: Run, *, licence: str = "", data: str = "") -> str:
    """What a model is, what it learnt from, and what it can do, in Markdown."""
    config, facts = run.config(), run.facts()
    comparison = compare(run)
    columns = comparison["columns"]
    table = [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in comparison["rows"]),
    ]
    lines = [
        f"# {run.path.name}",
        "",
        "A retriever and a cloze reader that learnt together from raw text: REALM (Guu et al. 2020), by realm "
        f"{__version__}. Given a sentence with a blank, the retriever finds passages and the reader fills the blank "
        "from them.",
        "",
        "```python",
        "from realm import KnowledgeBase, Realm",
        f'model = Realm.from_pretrained("{run.path.name}")',
        'answer = model.ask("Guernica was painted by [MASK].", KnowledgeBase.open("kb"))',
        "```",
        "",
        "## Training",
        "",
        *(f"- {line}" for line in _training(config, facts)),
        *([f"- Data: {data}"] if data else []),
        *([f"- Licence: {licence}"] if licence else []),
        "",
        f"## Measured: {comparison['title'].lower()}",
        "",
        "Sentences of documents that were held out: nothing of them was masked in training. Their passages could be "
        "retrieved, the sentence's own document excepted.",
        "",
        *table,
        "",
        *(f"- {note}" for note in comparison["notes"]),
        "",
        "## Limits",
        "",
        "- It fills blanks; it wasn't trained on questions.",
        "- It knows the language and the kind of text it learnt from. On other documents, measure first: "
        f"`realm pretrain --kb KB --out RUN start={run.path.name}`.",
        "- An answer is as good as the passage it stands in, and what passages say is not checked.",
    ]
    return "\n".join(lines) + "\n"


def _training(config: PretrainConfig, facts: dict[str, Any]) -> list[str]:
    realm, ict = config.realm, config.ict
    return [
        f"From {config.start or config.encoder.model}; retriever of {config.encoder.layers} layers, reader of "
        f"{config.reader.layers} ({config.reader.interaction} interaction).",
        f"Inverse cloze task: {ict.steps:,} steps of {ict.batch_size}; REALM: {realm.steps:,} steps of "
        f"{realm.batch_size} sentences with {realm.num_candidates} candidates, {config.data.masking} masks, objective "
        f"{realm.objective}, marginal by {realm.marginal}, refresh every {config.refresh.every_steps} steps.",
        f"{config.data.held_out_fraction:.0%} of the documents held out, seed {facts['seed']}; begun "
        f"{facts['created']}.",
    ]
