"""A run as a model to give away: one folder, or one small file, with a card that says what it is."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from realm import __version__, files
from realm.answering import answerer
from realm.answering.confidence import FILE as CALIBRATION
from realm.answering.packing import ANSWERER, PACKED, REALM_MODEL, VERSION, check_place, pack_model
from realm.answering.pretrained import locate, open_parts, save_model
from realm.config import PretrainConfig, from_json, to_json
from realm.errors import ArtefactError
from realm.settings_finetune import FinetuneConfig
from realm.training.state import read_facts
from realm.workflows.finetuning.finetune import RESULT
from realm.workflows.pretraining.comparison import compare
from realm.workflows.run import FINETUNING, Run


def export(run: Path, out: Path, *, licence: str = "", data: str = "", base: str | None = None) -> dict[str, Any]:
    """Write a finished run as a model: a folder, or packed into one file when `out` ends in .safetensors.

    run: of pre-training or fine-tuning; or a fine-tuned model, packed or not, which is copied with its card. licence,
    data: what the card says of them. base: what training began with, by a name that others have, too (of the catalogue,
    or a hub id): a packed file leaves out what training left of it; of pre-training its encoder, when None. Returns
    place, size in bytes and, of a file, its SHA-256. ArtefactError when something is at `out`, or the run hasn't ended.
    """
    check_place(out)
    answers, packed = answerer.is_answerer(run), out.suffix == PACKED

    def write(folder: Path) -> None:
        writes = _write_answerer if answers else _write_pretrained
        writes(run, folder, out.stem, packed=packed, licence=licence, data=data)

    if not packed:
        with files.staged_folder(out) as staged:
            write(staged)
        size, sha256 = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()), None
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write(folder)
            if not answers and base is None:
                base = from_json(PretrainConfig, files.read_json(folder / "config.json")).encoder.model
            size = pack_model(folder, out, base)
        sha256 = files.sha256_of(out)
    return {"format": ANSWERER if answers else REALM_MODEL, "path": str(out), "bytes": size, "sha256": sha256}


def _write_pretrained(run: Path, folder: Path, name: str, *, packed: bool, licence: str, data: str) -> None:
    found = Run(run)
    if not found.exists:
        raise ArtefactError(f"{run} is no run: expected the folder of one, to export what it learnt")
    facts, config = found.facts(), found.config()
    with found.alone():
        place, _ = locate(run)
        step = int(read_facts(place)["step"])
        if step < config.realm.steps or not found.has_report("realm"):
            raise ArtefactError(
                f"{run} stands at step {step} of {config.realm.steps}, or was not judged: let `realm pretrain {run}` "
                "finish"
            )
        encoder, reader, _ = open_parts(place)
        card = model_card(found, name, packed=packed, licence=licence, data=data)
        made_from = {
            "created": facts["created"],
            "git_commit": facts["git_commit"],
            "seed": facts["seed"],
            "snapshot": facts["parents"]["snapshot"],
            "checkpoint": place.name,
        }
        save_model(folder, encoder, reader, config, card=card, facts={"made_from": made_from})


def _write_answerer(run: Path, folder: Path, name: str, *, packed: bool, licence: str, data: str) -> None:
    """A fine-tuned model as it lies there, without the places of this machine."""
    found = Run(run, FINETUNING)
    told: dict[str, Any] | None = None
    with found.alone() if found.exists else nullcontext():
        if found.exists and not (run / RESULT).exists():
            raise ArtefactError(f"{run} has not ended: let its `realm finetune` finish")
        shutil.copytree(answerer.answerer_folder(run), folder, dirs_exist_ok=True)
        if found.exists:
            parents = found.facts()["parents"]
            told = {
                "licence": licence or parents.get("licence", ""),
                "parents": parents,
                **files.read_json(run / RESULT),
            }
    manifest = files.read_manifest(folder, format=ANSWERER, version=VERSION)
    made_from = {**manifest["made_from"], "start": answerer.place_name(manifest["made_from"]["start"])}
    kept = {key: value for key, value in manifest.items() if key not in ("files", "packed")}
    files.write_json(folder / files.MANIFEST, {**kept, "made_from": made_from})
    config = from_json(FinetuneConfig, files.read_json(folder / "config.json"))
    encoder, reader = config.encoder, config.reader
    config = replace(
        config,
        encoder=replace(encoder, model=answerer.place_name(encoder.model)),
        reader=replace(reader, model=reader.model and answerer.place_name(reader.model)),
    )
    files.write_json(folder / "config.json", to_json(config))
    if told is not None:
        more = [*([f"Data: {data}"] if data else []), *(["Numbers rounded since (int8, bfloat16)."] if packed else [])]
        calibrated = (folder / CALIBRATION).exists()
        card = answerer.model_card(
            name, config, told, told["curve"], best_step=told["best_step"], more=more, calibrated=calibrated
        )
        files.write_text(folder / answerer.CARD, card)


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
