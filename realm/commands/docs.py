"""``realm docs``: the verbs that edit a knowledge base, and the options and small things all verbs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from realm.addresses import address_of
from realm.files import check_folder

docs = typer.Typer(help="Add, edit, delete and list documents, and see their history.", no_args_is_help=True)


def folder_place(folder: Path | None) -> Path | None:
    """An option that names a folder: refused before any work where no folder can be."""
    if folder is not None:
        check_folder(folder)
    return folder


def file_place(file: Path | None) -> Path | None:
    """An option that names a new file: refused before any work where no folder can be above it."""
    if file is not None:
        check_folder(file.absolute().parent)
    return file


def kb_place(place: Path | None) -> Path | None:
    """An option that names a knowledge base: a folder, or an address of an object store."""
    return place if place is not None and address_of(place) is not None else folder_place(place)


KB = Annotated[Path, typer.Option("--kb", help="The knowledge base: a folder, or s3://bucket/path.", callback=kb_place)]
MODEL = Annotated[Path, typer.Option("--model", help="A run, one of its checkpoints, a model, or a model's name.")]
DEFAULT_MODEL = Path("squad-base")
"""Answers questions; lies in the package."""
WHERE = Annotated[str | None, typer.Option(help="A predicate: \"source = 'reuters' and date >= date '2024-01-01'\".")]


def moment(text: str) -> Any:
    """A version or a time; see `read_as_of`."""
    from realm.knowledge.table.times import read_as_of

    return read_as_of(text)


def period(text: str) -> Any:
    """A number of minutes, hours, days or weeks; see `read_period`."""
    from realm.workflows.upkeep import read_period

    return read_period(text)


_MOMENT = (
    "a version (7), or a time in ISO 8601 (2024-05-01T09:30+02:00; without a zone local; a day is its first moment)"
)
AS_OF = Annotated[
    Any | None,
    typer.Option("--as-of", parser=moment, metavar="VERSION|TIME", help=f"Read it as it was at {_MOMENT}."),
]
BF16 = Annotated[
    bool | None,
    typer.Option("--bf16/--float32", help="Numbers to read with.  [default: bfloat16 on a CPU that says it has it]"),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@docs.command("add")
def docs_add(
    kb: KB,
    file: Annotated[Path, typer.Argument(help="A file or folder of documents; '-' reads one from standard input.")],
    id: Annotated[str | None, typer.Option(help="For a single text: its id.")] = None,
    title: Annotated[str, typer.Option(help="For a single text: its title.")] = "",
    as_json: JSON = False,
) -> None:
    """Add documents. An id that is already there is refused."""
    from realm.workflows.ingest import add_documents

    _report_version(add_documents(kb, file, id=id, title=title), as_json)


@docs.command("update")
def docs_update(
    kb: KB,
    id: Annotated[str, typer.Argument(help="The document.")],
    text: Annotated[str | None, typer.Option(help="The new text.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file that holds the new text.")] = None,
    replace: Annotated[
        list[str] | None, typer.Option(help="OLD=>NEW: replace a piece of the text. May be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The new title.")] = None,
    as_json: JSON = False,
) -> None:
    """Change a document, in one commit.

    Passages whose text stays keep their vectors.
    """
    from realm.workflows.ingest import update_document

    _report_version(update_document(kb, id, text=text, file=file, replace_pieces=replace, title=title), as_json)


@docs.command("delete")
def docs_delete(kb: KB, ids: Annotated[list[str], typer.Argument(help="Documents.")], as_json: JSON = False) -> None:
    """Delete documents. Their history stays."""
    from realm.workflows.ingest import delete_documents

    _report_version(delete_documents(kb, ids), as_json)


@docs.command("restore")
def docs_restore(
    kb: KB,
    id: Annotated[str, typer.Argument(help="The document, also one that is deleted.")],
    as_of: Annotated[Any, typer.Option("--as-of", parser=moment, metavar="VERSION|TIME", help=f"As at {_MOMENT}.")],
    as_json: JSON = False,
) -> None:
    """Make a document again what it was.

    That is a new version: nothing that came since is lost.
    """
    from realm.workflows.ingest import restore_document

    _report_version(restore_document(kb, id, as_of), as_json)


@docs.command("list")
def docs_list(
    kb: KB,
    where: WHERE = None,
    as_of: AS_OF = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: JSON = False,
) -> None:
    """List documents."""
    from realm.workflows.ingest import list_documents

    found = list_documents(kb, where=where, as_of=as_of, limit=limit)
    if as_json:
        print_json(found)
        return
    for document in found["documents"]:
        typer.echo(f"{document['id']}\t{document['title']}\t{short(document['text'], 80)}")
    if found["total"] > len(found["documents"]):
        typer.echo(f"... {found['total'] - len(found['documents']):,} more: raise --limit", err=True)


@docs.command("history")
def docs_history(kb: KB, id: Annotated[str, typer.Argument(help="The document.")], as_json: JSON = False) -> None:
    """Every version of a document, and what it changed.

    Removed words as [-old-], added ones as {+new+}; --json gives all of the text.
    """
    from realm.workflows.history import document_history

    found = document_history(kb, id)
    if as_json:
        print_json(found)
        return
    from realm.console import print_change

    for change in found:
        print_change(change)


@docs.command("index")
def docs_index(
    kb: KB,
    encoder: Annotated[
        str | None, typer.Option(help="Whose vectors, by fingerprint as `realm show KB` names it, if several have any.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Make the index of approximate search over stored vectors.

    Worth it beyond a million passages; edits are found without making it anew.
    """
    from realm.workflows.ingest import index_vectors

    found = index_vectors(kb, encoder)
    if as_json:
        print_json(found)
        return
    typer.echo(
        f"{found['rows']:,} vectors in {found['lists']:,} lists, {found['probed']:,} of them looked at for a question: "
        f"recall@10 {found['recall']:.3f} on a sample"
    )


@docs.command("compact")
def docs_compact(
    kb: KB,
    keep_versions: Annotated[
        int | None, typer.Option(min=1, help="Let all versions go but so many, the newest, and their files.")
    ] = None,
    older_than: Annotated[
        Any | None,
        typer.Option(parser=period, metavar="PERIOD", help="Let versions go that are older: 90d, 12h, 30m, 4w."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Merge small files and bring the indexes up to date.

    Questions are answered meanwhile, edits wait. Every version stays, and with it the files that it alone needs, unless
    --keep-versions or --older-than says what may go (with both: what neither keeps). What was in a version that went
    can't be asked for, shown or restored any more. Versions of the last ten minutes always stay.
    """
    from realm.workflows.upkeep import compact

    found = compact(kb, older_than=older_than, keep_versions=keep_versions)
    if as_json:
        print_json(found)
        return
    typer.echo(f"version {found['version']}")
    if keep_versions is not None or older_than is not None:
        freed = "" if found["bytes_freed"] is None else f", {found['bytes_freed'] / 1e6:,.1f} MB freed"
        typer.echo(f"{found['versions_removed']:,} versions removed{freed}")


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))


def short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _report_version(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        typer.echo(
            ", ".join(
                f"{value:,} {name}" for name, value in result.items() if name not in ("version", "as_of") and value
            )
            or "nothing changed"
        )
        typer.echo(f"version {result['version']}")
