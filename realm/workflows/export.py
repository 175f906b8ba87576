"""A run as a model to give away: one folder, or one small file, with a card that says what it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from realm import __version__, files
from realm.answering.pretrained import FORMAT, PACKED, check_place, locate, open_parts, pack_model, save_model
from realm.config import PretrainConfig
from realm.errors import ArtefactError
from realm.training.state import read_facts
from realm.workflows.pretraining.comparison import compare
from realm.workflows.run import Run


def export(run: Path, out: Path, *, licence: str = "", data: str = "") -> dict[str, Any]:
    """Write a finished run as a model: a folder, or packed into one file when `out` ends in .safetensors.

    licence, data: what the card says of them. Returns place, size in bytes and, of a file, its SHA-256. ArtefactError
    when something is at `out`, or the run isn't one of pre-training that has ended.
    """
    if not (run / "run.json").exists():
        raise ArtefactError(f"{run} is no run: expected the folder of one, to export what it learnt")
    found = Run(run)
    facts, config = found.facts(), found.config()
    check_place(out)
    with found.alone():
        place, _ = locate(run)
        step = int(read_facts(place)["step"])
        if step < config.realm.steps or not found.has_report("realm"):
            raise ArtefactError(
                f"{run} stands at step {step} of {config.realm.steps}, or was not judged: let `realm pretrain {run}` "
                "finish"
            )
        encoder, reader, _ = open_parts(place)
        card = model_card(found, out.stem, packed=out.suffix == PACKED, licence=licence, data=data)
        made_from = {
            "created": facts["created"],
            "git_commit": facts["git_commit"],
            "seed": facts["seed"],
            "snapshot": facts["parents"]["snapshot"],
            "checkpoint": place.name,
        }
        about: dict[str, Any] = {"card": card, "facts": {"made_from": made_from}}
        if out.suffix != PACKED:
            save_model(out, encoder, reader, config, **about)
            size, sha256 = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()), None
        else:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "model"
                save_model(folder, encoder, reader, config, **about)
                size = pack_model(folder, out)
            sha256 = files.sha256_of(out)
    return {"format": FORMAT, "path": str(out), "bytes": size, "sha256": sha256}


def model_card(run: Run, name: str, *, packed: bool = False, licence: str = "", data: str = "") -> str:
    """What a model is, what it learnt from, and what it can do, in Markdown.

    name: what it is called where it is opened. packed: whether its numbers are rounded.
    """
    config, facts = run.config(), run.facts()
    comparison = compare(run)
    opened = f"{name}{PACKED}" if packed else name
    held_out = (
        "Sentences of documents that were held out: nothing of them was masked in training. Their passages could be "
        "retrieved, the sentence's own document excepted."
    )
    lines = [
        f"# {name}",
        "",
        "A retriever and a cloze reader that learnt together from raw text: REALM (Guu et al. 2020), by realm "
        f"{__version__}. Given a sentence with a blank, the retriever finds passages and the reader fills the blank "
        "from them.",
        "",
        "```python",
        "from realm import KnowledgeBase, Realm",
        f'model = Realm.from_pretrained("{opened}")',
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
        *([held_out, ""] if config.start is None else []),
        *_table([comparison["columns"], *comparison["rows"]]),
        "",
        *(f"- {note}" for note in comparison["notes"]),
        *(["- measured before the numbers were rounded (int8, bfloat16)"] if packed else []),
        "",
        "## Limits",
        "",
        "- It fills blanks; it wasn't trained on questions.",
        "- It knows the language and the kind of text it learnt from. On other documents, measure first: "
        f"`realm pretrain --kb KB --out RUN start={opened} ict.steps=0`.",
        "- An answer is as good as the passage it stands in, and what passages say is not checked.",
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, the first row its head. A bar in a cell would end it."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


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
