"""Approximate search over the vectors of an encoder: an inverted file of int8 vectors that Lance keeps beside the rows
(Jégou, Douze & Schmid 2011, "Product quantization for nearest neighbor search", section IV), the best scored again.

Lance looks at the predicate before it scores, leaves out rows that were deleted, and searches rows that came after the
index one by one, so edits are seen at once. What it is bad at is a predicate that few rows satisfy: the nearest of
these lie in lists that are not probed. So where few rows are left they are searched exactly, which costs little, and
where some are left out more lists are probed.

How many lists it takes hangs on the vectors: it is measured when the index is made, with stored vectors, moved a
little, as queries, and stands in the column's metadata.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from realm.errors import UsageError
from realm.knowledge.table import schema as sc
from realm.knowledge.table import vectors as vec

if TYPE_CHECKING:
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import LanceTable

FACTS = "realm:near"
RECALL = 0.98
"""Recall@10 on the sample that the number of lists to probe is chosen by."""
EXACT_PER_LIST = 32
"""Rows that satisfy a predicate are searched exactly up to so many for each list there is: 14,000 of 200,000."""
_REFINED = 4
"""Of k rows wanted, so many times k are scored again by their float vectors."""
_SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
_SAMPLE, _K, _NOISE = 50, 10, 0.5


def build(table: LanceTable, encoder: str | None) -> dict[str, Any]:
    """Make the index of an encoder's vectors, or make it anew; `lists`, `probed`, `recall` (of the sample), `rows`.

    table: held for writing. UsageError without vectors.
    """
    from lancedb.index import IvfSq

    column, _ = vec.choose(table.schema, encoder)
    count = table.count_rows(f"number >= 0 AND {column} IS NOT NULL")
    if not count:
        raise UsageError(f"no vectors of {column.removeprefix(sc.VECTOR)}: expected some; see embed_missing")
    lists = max(1, round(math.sqrt(count)))
    table.create_index(column, config=IvfSq(distance_type="dot", num_partitions=lists))
    query_BD = _queries(table, column, count)
    best = [_rows(_search(table, column, query).bypass_vector_index()) for query in query_BD]
    probed = recall = 0.0
    for probed in sorted({max(1, math.ceil(share * lists)) for share in _SHARES}):
        found = [_rows(probe(_search(table, column, query), int(probed))) for query in query_BD]
        recall = float(np.mean([len(have & want) / len(want) for have, want in zip(found, best, strict=True)]))
        if recall >= RECALL:
            break
    facts = {"lists": lists, "probed": int(probed), "recall": recall, "rows": count}
    table.update_field_metadata({"path": column, "metadata": {FACTS: json.dumps(facts)}})
    return facts


def make_ready(table: LanceTable) -> None:
    """Let Lance bring the indexes up to date. It fails, and leaves them all as they are, where rows came after an index
    and none of them has a vector, as after a deletion: so one that has is written anew, behind them.

    table: held for writing. A commit where there is anything to do.
    """
    for index in table.list_indices():
        column = index.columns[0]
        stats = table.index_stats(index.name) if column.startswith(sc.VECTOR) else None
        if stats is None or not stats.num_unindexed_rows:
            continue
        embedded = table.search().where(f"number >= 0 AND {column} IS NOT NULL").select(["number"])
        found = embedded.with_row_id(True).limit(1).to_arrow()["_rowid"].to_pylist()
        if found:
            table.update(where=f"_rowid = {found[0]}", values_sql={"number": "number"})
        else:
            table.drop_index(index.name)


def lists_to_probe(table: LanceTable, column: str, rows: str, narrowed: bool) -> int | None:
    """How many lists of the index are to be looked at; None where the few `rows` that are left are searched exactly.

    narrowed: whether `rows` leaves passages out. UsageError where there is no index.
    """
    told = (table.schema.field(column).metadata or {}).get(FACTS.encode())
    if told is None:
        raise UsageError(
            f"no index for approximate search over the vectors of {column.removeprefix(sc.VECTOR)}: expected one that "
            "`realm docs index` or KnowledgeBase.index_vectors made; or search exactly"
        )
    facts = json.loads(told)
    share = 1.0
    if narrowed:
        left = table.count_rows(rows)
        if left <= EXACT_PER_LIST * facts["lists"]:
            return None
        share = min(1.0, left / facts["rows"])
    return min(int(facts["lists"]), math.ceil(float(facts["probed"]) / math.sqrt(share)))


def probe(query: LanceVectorQueryBuilder, lists: int) -> LanceVectorQueryBuilder:
    """A query that looks at so many lists. It finds no row without a vector, so none has to be left out by a predicate,
    which would read the whole column."""
    return query.nprobes(lists).refine_factor(_REFINED)


def _search(table: LanceTable, column: str, query_D: np.ndarray) -> LanceVectorQueryBuilder:
    search = table.search(query_D, vector_column_name=column).distance_type("dot")
    found: LanceVectorQueryBuilder = search.where("number >= 0", prefilter=True).select(["_distance"]).with_row_id(True)
    return found.limit(_K)


def _rows(query: LanceVectorQueryBuilder) -> set[int]:
    return set(query.to_arrow()["_rowid"].to_pylist())


def _queries(table: LanceTable, column: str, count: int) -> np.ndarray:
    """Stored vectors float32[B, D], each moved by half of what they vary by: a question lies near its passages."""
    draw = np.random.default_rng(0)
    wanted = set(draw.choice(count, min(_SAMPLE, count), replace=False).tolist())
    parts, at = [], 0
    for batch in table.search().where(f"number >= 0 AND {column} IS NOT NULL").select([column]).to_batches(16_384):
        chosen = [row - at for row in wanted if at <= row < at + batch.num_rows]
        at += batch.num_rows
        if chosen:
            vector_ND = batch[column].flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
            parts.append(vector_ND[sorted(chosen)])
    vector_BD = np.concatenate(parts)
    moved_BD = draw.standard_normal(vector_BD.shape, dtype=np.float32) * vector_BD.std(axis=0)
    return np.asarray(vector_BD + _NOISE * moved_BD)
