"""What `where` may say: exactly the language that is told, meaning what SQL means by it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import dots
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from where import holds

from realm.errors import UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table import predicates as pr
from realm.types import Document

AWKWARD = (
    "a",
    "A",
    "it's",
    "50%",
    "a_b",
    "back\\slash",
    "--",
    "; drop",
    "a\nb",
    "`x`",
    'say "so"',
    "ü😀",
    "",
    "a' OR '1",
)
DAYS = (date(1066, 10, 14), date(2023, 12, 31), date(2024, 1, 1), date(2024, 2, 29), date(9999, 12, 31))
WHOLE = (-(2**40), -1, 0, 1, 7, 2**53, 2**63 - 1)
NUMBERS = (-1e300, -2.5, 0.0, 1e-9, 0.1, 7.0, 1e22)


def world() -> list[Document]:
    """Documents in which every column is sometimes absent."""
    found = []
    for i in range(60):
        metadata: dict[str, Any] = {"order": AWKWARD[(5 * i) % len(AWKWARD)]} if i % 4 else {}
        metadata |= {"Pages": WHOLE[i % len(WHOLE)]} if i % 5 else {}
        metadata |= {"size": NUMBERS[i % len(NUMBERS)]} if i % 6 else {}
        metadata |= {"open": i % 2 == 0} if i % 7 else {}
        found.append(
            Document(
                f"d{i}",
                AWKWARD[i % len(AWKWARD)],
                "one.",
                source=AWKWARD[(3 * i) % len(AWKWARD)] if i % 3 else None,
                date=DAYS[i % len(DAYS)] if i % 8 else None,
                metadata=metadata,
            )
        )
    return found


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> KnowledgeBase:
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("predicates") / "kb", split=dots.split, splitter=dots.SETTINGS)
    kb.add(world())
    return kb


def row_of(document: Document) -> dict[str, Any]:
    names = ("order", "Pages", "size", "open")
    return {
        "document_id": document.id,
        "title": document.title,
        "source": document.source,
        "date": document.date,
        **{name: document.metadata.get(name) for name in names},
    }


# ---------------------------------------------------------------- the language, as a person writes it


def written(tree: pr.Predicate, draw: Any) -> str:
    """The tree in the language, capitals and blanks as they come."""

    def word(text: str) -> str:
        return draw(st.sampled_from([text.upper(), text.lower(), text.title()]))

    def blank() -> str:
        return draw(st.sampled_from([" ", "  ", "\n", " \t"]))

    def name(column: str) -> str:
        column = draw(st.sampled_from([column, column.upper(), column.lower()]))
        return f"`{column}`" if column.lower() in ("order", "date") else column

    def value(of: Any) -> str:
        if isinstance(of, bool):
            return word("true" if of else "false")
        if isinstance(of, date):
            text = f"'{of.isoformat()}'"
            return draw(st.sampled_from([text, f"{word('date')} {text}"]))
        if isinstance(of, str):
            return "'" + of.replace("'", "''") + "'"
        return repr(of)

    match tree:
        case pr.Constant(constant):
            return word("true" if constant else "false")
        case pr.Not(pr.Absent(column)):
            return f"{name(column)} {word('is')} {word('not')}{blank()}{word('null')}"
        case pr.Not(pr.In(column, values)):
            return f"{name(column)} {word('not')} {word('in')}({', '.join(map(value, values))})"
        case pr.Not(inner):
            return f"{word('not')}{blank()}({written(inner, draw)})"
        case pr.AllOf(parts) | pr.AnyOf(parts):
            joint = word("and" if isinstance(tree, pr.AllOf) else "or")
            return f"{blank()}{joint}{blank()}".join(f"({written(part, draw)})" for part in parts)
        case pr.Absent(column):
            return f"{name(column)} {word('is')} {word('null')}"
        case pr.Holds(column):
            return name(column)
        case pr.In(column, values):
            return f"{name(column)}{blank()}{word('in')}{blank()}({','.join(map(value, values))})"
        case pr.Between(column, low, high):
            return f"{name(column)} {word('between')} {value(low)}{blank()}{word('and')}{blank()}{value(high)}"
        case pr.Like(column, pattern, any_case):
            return f"{name(column)} {word('ilike' if any_case else 'like')} {value(pattern)}"
        case pr.Comparison(column, operator, other):
            shown = draw(st.sampled_from(["!=", "<>"])) if operator == "!=" else operator
            return f"{name(column)}{draw(st.sampled_from(['', ' ']))}{shown}{value(other)}"
    raise AssertionError(tree)


TEXTS = st.sampled_from(AWKWARD)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "document_id": st.sampled_from(["d1", "d7", "nobody"]),
    "title": TEXTS,
    "source": TEXTS,
    "order": TEXTS,
    "date": st.sampled_from(DAYS),
    "Pages": st.sampled_from(WHOLE),
    "size": st.sampled_from(NUMBERS),
}
PATTERNS = st.sampled_from(
    [
        "%",
        "_",
        "a%",
        "%'%",
        "50\\%",
        "a\\_b",
        "a_b",
        "back\\\\slash",
        "%\\\\%",
        "A",
        "__",
        "%\n%",
        "ü_",
        "",
        "%' OR '1%",
    ]
)


@st.composite
def leaves(draw: Any) -> pr.Predicate:
    column = draw(st.sampled_from([*VALUES, "open"]))
    kinds = ["absent", "holds", "equal"] if column == "open" else ["absent", "compare", "in", "between", "like"]
    kind = draw(st.sampled_from(kinds))
    values = VALUES.get(column, st.booleans())
    if kind == "absent":
        return pr.Absent(column)
    if kind == "holds":
        return draw(st.sampled_from([pr.Holds(column), pr.Constant(True), pr.Constant(False)]))
    if kind == "equal":
        return pr.Comparison(column, draw(st.sampled_from(["=", "!="])), draw(values))
    if kind == "in":
        return pr.In(column, tuple(draw(st.lists(values, min_size=1, max_size=4))))
    if kind == "between":
        return pr.Between(column, draw(values), draw(values))
    if kind == "like" and column in ("title", "source", "order"):
        return pr.Like(column, draw(PATTERNS), False)
    return pr.Comparison(column, draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">="])), draw(values))


def joined(inner: st.SearchStrategy[pr.Predicate]) -> st.SearchStrategy[pr.Predicate]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(inner.map(pr.Not), several.map(pr.AllOf), several.map(pr.AnyOf))


TREES = st.recursive(leaves(), joined, max_leaves=6)


@settings(max_examples=80)
@given(st.data(), TREES)
def test_the_store_finds_what_the_tree_means(kb: KnowledgeBase, data: st.DataObject, tree: pr.Predicate) -> None:
    where = written(tree, data.draw)
    try:
        assert pr.parse(where, kb.columns()) == tree
    except pr.PredicateError as error:
        assert "within each other" in str(error)
        return
    expected = [document.id for document in world() if holds(tree, row_of(document))]
    assert [document.id for document in kb.page(where, 100).documents] == expected
    assert kb.num_passages(where) == len(expected)


# ---------------------------------------------------------------- words


def test_how_strongly_the_words_bind(kb: KnowledgeBase) -> None:
    columns = kb.columns()
    a, b, c = (pr.Comparison("title", "=", letter) for letter in "abc")
    assert pr.parse("title='a' or title='b' and title='c'", columns) == pr.AnyOf((a, pr.AllOf((b, c))))
    assert pr.parse("(title='a' or title='b') and title='c'", columns) == pr.AllOf((pr.AnyOf((a, b)), c))
    assert pr.parse("not title='a' and title='b'", columns) == pr.AllOf((pr.Not(a), b))
    between = pr.Between("Pages", 1, 3)
    assert pr.parse("pages between 1 and 3 and title = 'a'", columns) == pr.AllOf((between, a))
    assert pr.to_sql(pr.AllOf((pr.AnyOf((a, b)), c))) == "(`title` = 'a' OR `title` = 'b') AND `title` = 'c'"


def test_times(kb: KnowledgeBase) -> None:
    columns = kb.columns()
    moment = datetime(2024, 5, 1, 7, 30, tzinfo=UTC)
    for text in ("'2024-05-01T09:30+02:00'", "TIMESTAMP '2024-05-01T07:30Z'", "timestamp '2024-05-01 07:30:00+00:00'"):
        assert pr.parse(f"updated_at > {text}", columns) == pr.Comparison("updated_at", ">", moment)
    assert pr.to_sql(pr.Comparison("updated_at", ">", moment)).endswith("timestamp '2024-05-01T07:30:00.000000Z'")
    assert kb.num_passages("updated_at > '2024-05-01'") == kb.num_passages(
        "updated_at between '1066-10-14' and '9998-01-01'"
    )
    assert kb.num_passages("updated_at > '9998-01-01'") == 0


def test_any_case(kb: KnowledgeBase) -> None:
    assert kb.num_passages("title ilike 'IT''S'") == kb.num_passages("title = 'it''s'") > 0
    assert kb.num_passages("title like 'IT''S'") == 0


@pytest.mark.parametrize(
    "attack",
    [
        "true -- a comment",
        "true /* a comment */",
        "true # a comment",
        "title = 'a'; DROP TABLE passages",
        "title = 'a') OR (1 = 1",
        "1 = 1",
        "title = title",
        "title = 'a' OR 1",
        "title = 'a' UNION SELECT * FROM passages",
        "title IN (SELECT title FROM passages)",
        "title = (SELECT 'a')",
        "EXISTS (SELECT 1)",
        "length(title) > 0",
        "regexp_match(title, '(a+)+$') IS NOT NULL",
        "lower(title) = 'a'",
        "title ~ 'a'",
        "title || 'a' = 'aa'",
        "Pages + 1 > 2",
        "Pages > -(-1)",
        "title = 'a",
        "title = 'a''",
        'title = "a"',
        "`title = 'a'",
        "`title` = `source`",
        "`tit``le` = 'a'",
        "passages.title = 'a'",
        "title = E'a\\'' OR 1=1",
        "title = 'a' 'b'",
        "title = X'61'",
        "title = $1",
        "title = ?",
        "title = :a",
        "CASE WHEN true THEN true END",
        "CAST(title AS int) = 1",
        "title::int = 1",
        "title IS DISTINCT FROM 'a'",
        "title = ANY(ARRAY['a'])",
        "change = 'deleted'",
        "document_hash = 'x'",
        "gap = ''",
        "position > 0",
        "text_hash = 'x'",
        "_rowid = 1",
        "_origin = 'x'",
        "vector_e IS NOT NULL",
        "start = 0",
        "title = 'a' AND",
        "NOT",
        "()",
        "title IN ()",
        "title LIKE 'a' ESCAPE '!'",
        "title\u00a0= 'a'",
        "tıtle = 'a'",
        "title = ‘a’",
        "title = 'a'\0",
    ],
)
def test_nothing_else_is_a_predicate(kb: KnowledgeBase, attack: str) -> None:
    for ask in (
        kb.num_passages,
        lambda where: list(kb.documents(where)),
        lambda where: kb.search_text("one", 3, where),
    ):
        with pytest.raises(UsageError, match="is not a predicate here") as caught:
            ask(attack)
        assert "the columns are document_id, title, source" in str(caught.value) and "\n" not in str(caught.value)
        assert "position" not in str(caught.value).split("the columns are")[1]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("colour = 'red'", "found 'colour' at character 1, expected a column"),
        ("title = 5", "'5' at character 9, expected 'text' for title"),
        ("pages = 'x'", "expected a whole number of 64 bits for Pages"),
        ("pages = 1.5", "expected a whole number of 64 bits"),
        ("pages = 9223372036854775808", "expected a whole number of 64 bits"),
        ("number = 3000000000", "expected a whole number of 32 bits"),
        ("size = 1e999", "expected a number for size"),
        ("size = '1'", "expected a number for size"),
        ("open > true", "open is true or false: expected = or !="),
        ("open in (true)", "open is true or false"),
        ("open = 1", "expected true or false for open"),
        ("date = '2024-02-30'", "expected a day as '2024-05-01' for date"),
        ("date > 2024", "expected a day"),
        ("updated_at > 'yesterday'", "expected a time"),
        ("source = null", "what is absent is found by IS NULL"),
        ("pages like '1%'", "Pages is no text"),
        ("title like 'a\\'", "ends in a backslash"),
        ("title", "found the end at character 6, expected what title is compared with"),
        ('title = "a"', 'a double quote'),
        ("title = 'a", "a quote that does not end at character 9"),
        ("(" * 13 + "true" + ")" * 13, "within each other"),
        ("not " * 13 + "true", "within each other"),
        (" or ".join(["open"] * 201), "more than 200 tests; column IN (...) is one"),
        ("pages in (" + ",".join(["1"] * 10_001) + ")", "more than 10,000 values"),
        ("title = '\ud800'", "half a character"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(kb: KnowledgeBase, where: str, words: str) -> None:
    with pytest.raises(pr.PredicateError) as caught:
        kb.num_passages(where)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_largest_that_is_allowed_does_not_break_the_store(kb: KnowledgeBase) -> None:
    everything = kb.num_passages("pages is not null")
    wide = " or ".join([*(f"pages = {i}" for i in range(100, 299)), "pages is not null"])
    assert kb.num_passages(wide) == everything
    many = "pages in (" + ",".join(map(str, range(10_000))) + ")"
    assert kb.num_passages(many) == kb.num_passages("pages between 0 and 9999") > 0
    deep = "open"
    for _ in range(4):
        deep = f"not ({' or '.join([deep, *['open'] * 8])})"
    tree = pr.parse(f"{deep} or size > 1", kb.columns())
    assert kb.num_passages(f"{deep} or size > 1") == sum(holds(tree, row_of(document)) is True for document in world())


def test_no_predicate_is_everything(kb: KnowledgeBase) -> None:
    assert kb.num_passages("") == kb.num_passages("  ") == kb.num_passages(None) == 60
