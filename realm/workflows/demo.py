"""The whole story on real text, from one command.

text -> knowledge base -> spans -> warm start -> REALM -> table -> answers -> an edit -> another answer -> a page

With a model that was trained before, the story begins at the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from realm import files
from realm.addresses import as_given
from realm.answering.ask import Realm
from realm.answering.pretrained import CARD, locate
from realm.errors import ArtefactError, UnavailableError, UsageError
from realm.evaluation.report import Example
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.fetching import fetch
from realm.knowledge.formats.sources import read_documents
from realm.recipes import build
from realm.training.probe import Probe
from realm.types import Answer, Document
from realm.workflows.ask import embed_missing
from realm.workflows.pretraining.pretrain import pretrain
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.run import Run
from realm.workflows.showing.page import run_page
from realm.workflows.store import create_or_open, open_knowledge_base
from realm.workflows.values import answer_json
from realm.workflows.workbench import Stop

CORPUS = "vital-en"
MODEL = "vital-small"
OWN = {"kb", "run", "demo.json"}
"""What a demo's folder holds."""
QUICK_EVERY = 8
"""The quick story keeps one document in so many, and those that it tells of."""
PASSAGES = 5


@dataclass(frozen=True)
class Edit:
    """A fact to change: in the document of this title, one name for another."""

    title: str
    question: str
    old: str
    new: str

    def found_in(self, kb: KnowledgeBase) -> Document | None:
        """The document that says so."""
        titled = kb.documents(f"title = '{self.title}'")
        return next((document for document in titled if self.old in document.text), None)

    def changed(self, document: Document) -> Document:
        """The document after the edit."""
        return replace(document, text=document.text.replace(self.old, self.new))


QUESTIONS = (
    "Guernica was painted by [MASK].",
    "The Eiffel Tower is named after the engineer [MASK].",
    "Hamlet was written by [MASK].",
)
EDITS = (
    Edit("Mona Lisa", "The Mona Lisa was painted by [MASK].", "Leonardo da Vinci", "Sandro Botticelli"),
    Edit("Les Misérables", "Les Misérables was written by [MASK].", "Victor Hugo", "Alexandre Dumas"),
    Edit("Anna Karenina", "Anna Karenina was written by [MASK].", "Leo Tolstoy", "Anton Chekhov"),
)
"""Of these the one is changed whose document the model is surest of: an answer follows the document it rests on."""
STORY_TITLES = frozenset(
    {
        "Guernica (Picasso)",
        "Pablo Picasso",
        "Eiffel Tower",
        "Gustave Eiffel",
        "Hamlet",
        "William Shakespeare",
        "Mona Lisa",
        "Leonardo da Vinci",
        "Les Misérables",
        "Victor Hugo",
        "Anna Karenina",
        "Leo Tolstoy",
    }
)

Show = Callable[[str, Any], None]


def run_demo(
    out: Path,
    *,
    quick: bool = False,
    from_scratch: bool = False,
    kb: Path | None = None,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
    should_stop: Stop | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """Run the story, or go on with it. Returns the comparison, the answers and where everything is, as JSON values.

    from_scratch: train in front of one's eyes, as is done for a slice, for settings and for an own knowledge base, too;
    otherwise the answers are those of a model that was trained before.
    kb: a knowledge base of the user's own. It is not edited: its questions are held-out sentences.
    """
    reporter = reporter or Silent()
    show = show or (lambda kind, value: None)
    run, comparison = Run(out / "run"), None
    if out.exists() and any(out.iterdir()) and not OWN & {path.name for path in out.iterdir()}:
        raise ArtefactError(f"{out} is not empty and is no demo's: give another --out")
    config = build("quick" if quick else "small", settings)
    trained = None if from_scratch or quick or kb or settings or run.exists else _trained(reporter)
    kb_path = kb or _ingest(out / "kb", quick, reporter)
    if trained is None:
        comparison = pretrain(kb_path, run.path, config, reporter=reporter, should_stop=should_stop)
        show("table", comparison)
    else:
        show(
            "text",
            f"the model {MODEL}, trained before: {trained / CARD}\nto train one here: realm demo --from-scratch\n",
        )

    base = open_knowledge_base(kb_path)
    model = trained or run.path
    realm = Realm.from_pretrained(model)
    embed_missing(realm, base, reporter)
    if kb is None:
        put_back(realm, base)
    examples: list[Example] = []
    answers: list[Answer] = []
    for question, expected in _questions(run, own=kb is not None):
        answer = realm.ask(question, base, k=PASSAGES)
        answers.append(answer)
        examples.append(Example(answer=answer, expected=expected))
        show("answer", answer)
    found, edited = None if kb is not None else surest(realm, base), list[Answer]()
    if found is not None:
        fact, before = found
        edited = [before, edit(realm, base, fact, before, show)]
        examples = [*examples[:2], Example(answer=edited[-1], heading="After the edit", expected=fact.new)]
    places = ""
    if comparison is not None:
        run_page(run, comparison, examples, "REALM: a retriever and a reader that learnt together")
        places = f"\nthe page: {run.report}\nthe run:  {run.path}"
    name = MODEL if trained else run.path
    show("text", f'{places}\nask more: realm ask "... [MASK] ..." --kb {as_given(kb_path)} --model {name}')
    result = {
        "comparison": comparison,
        "answers": [answer_json(answer) for answer in answers],
        "edit": [answer_json(answer) for answer in edited],
        "report": str(run.report) if comparison is not None else None,
        "model": str(name),
        "knowledge_base": as_given(kb_path),
    }
    files.write_json(out / "demo.json", result)
    return result


def _trained(reporter: Reporter) -> Path | None:
    """The folder of the model that was trained before; None where it can't be had."""
    try:
        with reporter.stage(f"open the model {MODEL}"):
            return locate(MODEL)[0]
    except UnavailableError as error:
        reporter.note(f"{error}: training one here")
        return None


def _ingest(path: Path, quick: bool, reporter: Reporter) -> Path:
    """The vital articles as a knowledge base; what is there already is left alone."""
    done = path.with_name(f".{path.name}.complete")
    if done.exists() and (path / "kb.json").exists():
        return path
    with reporter.stage(f"fetch {CORPUS}"):
        source = fetch(CORPUS)
    documents = read_documents(source, format="summaries")
    kb = create_or_open(path, passages="sentences", max_tokens=288, tokenizer="all-MiniLM-L6-v2")
    with reporter.stage("knowledge base", "documents") as progress:
        kb.upsert(_slice(documents) if quick else documents, progress=progress)
    done.touch()
    return path


def _slice(documents: Iterator[Document]) -> Iterator[Document]:
    for number, document in enumerate(documents):
        if number % QUICK_EVERY == 0 or document.title in STORY_TITLES:
            yield document


def _questions(run: Run, *, own: bool) -> list[tuple[str, str | None]]:
    if not own:
        return [(question, None) for question in QUESTIONS]
    items = Probe.load(run.probe).items[: len(QUESTIONS)]
    return [(i.sentence[: i.span[0]] + "[MASK]" + i.sentence[i.span[1] :], i.answer) for i in items]


def put_back(realm: Realm, kb: KnowledgeBase) -> None:
    """Undo an edit of the story that was killed before it could do so itself."""
    for fact in EDITS:
        for document in list(kb.documents(f"title = '{fact.title}'")):
            for revision in kb.history(document.id)[-2:-1]:
                past = kb.at(revision.version).get(document.id)
                if past is not None and fact.old in past.text and document.text == fact.changed(past).text:
                    kb.update(past, encoder=realm.passage_encoder)


def surest(realm: Realm, kb: KnowledgeBase) -> tuple[Edit, Answer] | None:
    """The fact of `EDITS` that is answered rightly with the highest p(z|x) of a passage of its own document, and the
    answer; without a right answer the first that the knowledge base holds, None where it holds none."""

    def sureness(told: tuple[Edit, Answer]) -> float:
        fact, answer = told
        own = [e.prior for e in answer.evidence if e.passage.title == fact.title]
        return max(own, default=0.0) if answer.text == fact.old else 0.0

    held = [fact for fact in EDITS if fact.found_in(kb) is not None]
    return max(((fact, realm.ask(fact.question, kb, k=PASSAGES)) for fact in held), key=sureness, default=None)


def edit(realm: Realm, kb: KnowledgeBase, fact: Edit, before: Answer, show: Show) -> Answer:
    """Change the fact in its document and ask again; then put it back. Three versions stay in the history.

    before: the answer to the same question, to be shown beside the new one. UsageError: no document says the fact.
    """
    found = fact.found_in(kb)
    if found is None:
        raise UsageError(f"no document {fact.title!r} with {fact.old!r}: expected one, to change it")
    version = kb.update(fact.changed(found), encoder=realm.passage_encoder).version
    try:
        show(
            "text",
            f"\nEdit {found.id}: {fact.old} becomes {fact.new} (version {version}, no training). The same question:\n",
        )
        after = realm.ask(fact.question, kb, k=PASSAGES)
    finally:
        restored = kb.update(found, encoder=realm.passage_encoder).version
    show(
        "text",
        f"before: {before.text}   after: {after.text}   (put back in version {restored}; `realm docs history` tells)",
    )
    show("answer", after)
    return after


__all__ = ["edit", "put_back", "run_demo", "surest"]
