"""What the networks do a second here: embedding and the two trainings' steps, on the small knowledge base.

The steps are those of `realm pretrain`, batch made, passages fetched and backward done, with as many examples as fit
the time. Rates are operations a second of the formulas in `shapes`, whatever else a step spends its time on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from realm.config import PretrainConfig
from realm.evaluation.probe import judge
from realm.knowledge.snapshot import Snapshot
from realm.methods.ict import InverseCloze
from realm.methods.proposing import Proposer
from realm.methods.realm import RealmPretraining
from realm.models.cloze import ClozeReader, ReaderSettings
from realm.models.encoders import DenseEncoder
from realm.models.late import READERS
from realm.search.embed import embed_rows
from realm.search.exact import ExactIndex
from realm.training import pairs
from realm.training.ahead import Ahead
from realm.training.memory import kept_memory
from realm.types import Loss
from realm.workflows.estimating.measuring import BUDGET_SECONDS, Growth, once, seconds_of
from realm.workflows.estimating.preparing import Prepared, masked_sentences
from realm.workflows.estimating.shapes import Shape
from realm.workflows.estimating.steps import Shapes, Work, realm_flops

_BUDGET = 3 * BUDGET_SECONDS
_ROWS, _MADE = 512, 32
_SEARCHED = (1_024, 8_192, 32_768, 131_072)


def embedding_rate(encoder: DenseEncoder, shape: Shape, small: Prepared, config: PretrainConfig, guess: float) -> float:
    """Forward operations a second of `embed_rows`. guess: about what the machine does, to choose how many passages."""
    encoder.eval()
    snapshot, most = small.snapshot, config.data.max_passage_tokens
    length_N = snapshot.passage_lengths(most)
    wanted = _examples(_forward(shape, length_N) / len(length_N), guess, min(_ROWS, len(length_N)))
    # Spread over all lengths, the shortest and the longest alike.
    rows = np.argsort(length_N, kind="stable")[((np.arange(wanted) + 0.5) * len(length_N) / wanted).astype(int)]
    work = torch.from_numpy(rows)
    embed_rows(encoder, snapshot, work[:1], max_tokens=most)  # what the first call costs once is not counted
    seconds = seconds_of(lambda: embed_rows(encoder, snapshot, work, max_tokens=most), encoder.device, _BUDGET)
    return _forward(shape, length_N[rows]) / seconds


def ict_cost(encoder: DenseEncoder, shape: Shape, small: Prepared, config: PretrainConfig, bf16: bool) -> StepCost:
    """Of the warm start's step without its optimizer. A batch that is computed in pieces is so here, too."""
    snapshot, most = small.snapshot, config.data.max_passage_tokens
    made: Any = pairs.RandomCrops if config.ict.pairs == "crop" else pairs.InverseCloze
    own: dict[str, Any] = {"removal_probability": config.ict.removal_probability}
    if config.ict.pairs == "crop":
        own = {"shares": config.ict.crop_shares}
    lengths = {"max_query_tokens": config.data.max_query_tokens, "max_passage_tokens": most}

    def make(size: int) -> Timed:
        batches = made(snapshot, batch_size=max(2, size), shrink=True, **lengths, **own)
        batch = batches.batch(0)
        large = config.ict.batch_size * batch.passage.ids.shape[1] > config.ict.chunk_tokens
        in_pieces = large and not encoder.query_tower.is_bag
        method = InverseCloze(encoder, chunk_tokens=batch.passage.ids.numel() // 2 if in_pieces else None)
        flops = 3 * (_forward(shape, batch.query.lengths) + _forward(shape, batch.passage.lengths))
        return Timed(_step(method.loss, batches, (encoder,), bf16), flops)

    some = made(snapshot, batch_size=_MADE, shrink=True, **lengths, **own)
    return _cost(make, min(config.ict.batch_size, len(snapshot) // 2))._replace(made=_making(some, some.batch_size))


def realm_cost(
    encoder: DenseEncoder,
    reader: ClozeReader,
    shapes: Shapes,
    small: Prepared,
    config: PretrainConfig,
    bf16: bool,
    guess: float,
) -> StepCost:
    """Of REALM's step without its search and its optimizer.

    With as many candidates as there will be, or two where one example with all of them takes too long.
    """
    snapshot, most = small.snapshot, config.data.max_passage_tokens
    # Counted as the estimate counts: as if there were so many passages that no two sentences found the same.
    work = Work.of(1 << 40, small.lengths, config)

    def cut(size: int, candidates: int) -> PretrainConfig:
        return replace(
            config, realm=replace(config.realm, batch_size=size, num_candidates=candidates, explore=0, lexical=0)
        )

    candidates = config.realm.num_candidates
    if realm_flops(cut(1, candidates), shapes, work).all > 4 * _BUDGET * guess:
        candidates = 2
    proposer = Proposer(
        encoder,
        snapshot,
        ExactIndex(torch.randn(len(snapshot), encoder.dim, device=encoder.device)),
        num_passages=candidates - int(config.realm.null_passage),
        max_passage_tokens=most,
    )
    method = RealmPretraining(
        encoder,
        reader,
        snapshot,
        proposer,
        marginal=config.realm.marginal,
        objective=config.realm.objective,
        null_passage=config.realm.null_passage,
        max_passage_tokens=most,
        max_reader_tokens=most - 2,
        reader_title=config.reader.with_title,
    )

    def make(size: int) -> Timed:
        batches = masked_sentences(snapshot, small.spans, config, batch_size=size)
        flops = realm_flops(cut(size, candidates), shapes, work).all
        return Timed(_step(method.loss, batches, (encoder, reader), bf16), flops)

    some = masked_sentences(snapshot, small.spans, config, batch_size=_MADE)
    return _cost(make, config.realm.batch_size)._replace(made=_making(some, _MADE))


def build_reader(settings: Any, config: PretrainConfig, small: Prepared) -> ClozeReader:
    """The reader with random weights."""
    from transformers import AutoModelForMaskedLM

    chosen = ReaderSettings(
        copy=config.reader.copy_head,
        segments=True,
        max_length=config.data.max_query_tokens + config.data.max_passage_tokens,
        backbone_dropout=config.reader.dropout,
        freeze_word_embeddings=config.reader.freeze_word_embeddings,
        freeze_layers=config.reader.freeze_layers,
    )
    model = AutoModelForMaskedLM.from_config(settings)
    return READERS[config.reader.interaction](model, chosen, separator=small.snapshot.sep_id)


def searched(dim: int, folder: Path, device: torch.device) -> list[ExactIndex]:
    """Indexes from what a cache holds to more than that: mapped from `folder`, as those of a run, or on the device."""
    found = []
    for size in _SEARCHED:
        index = ExactIndex(torch.empty(size, dim).uniform_(-1, 1))
        index.save(folder / str(size))
        found.append(ExactIndex.open(folder / str(size), device=device))
    return found


def search_growth(indexes: Sequence[ExactIndex], queries: int, k: int) -> Growth:
    """Of exact search, by the rows of the indexes."""
    query_BD = torch.empty(queries, indexes[0].dim).uniform_(-1, 1)
    seconds = [seconds_of(partial(one.search, query_BD, k), one.device) for one in indexes]
    for at in range(1, len(seconds)):  # more rows never take less time, but for noise
        seconds[at] = max(seconds[at], 1.1 * seconds[at - 1])
    return Growth(tuple(map(len, indexes)), tuple(seconds))


def judging_seconds(small: Prepared, k: int) -> float:
    """Of one sentence of the probe: whether its answer stands in one of k passages. Here every other one's does."""
    snapshot, size = small.snapshot, 64
    rows_PK = torch.randint(len(snapshot), (size, k))
    answers = ["Quallenberg"] * size
    for number in range(0, size, 2):
        answers[number] = snapshot.text(int(rows_PK[number, number % k])).split(".")[0]

    def look() -> None:
        judge(rows_PK, answers, lambda row: f"{snapshot.title(row)}\n{snapshot.text(row)}", (k,))

    return seconds_of(look, torch.device("cpu")) / size


def activation_bytes(encoder: DenseEncoder, snapshot: Snapshot, config: PretrainConfig, bf16: bool) -> float:
    """What a token leaves behind for the backward pass."""
    encoder.train()
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # A bag keeps the vector of each distinct piece once: the more texts, the less of it falls on a token.
    rows = torch.arange(min(len(snapshot), 256 if encoder.query_tower.is_bag else 2))
    tokens = snapshot.passages(rows, config.data.max_passage_tokens).to(encoder.device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), _arithmetic(encoder, bf16):
        vector_ND = encoder.encode_passages(tokens)
    assert vector_ND.requires_grad
    return sum(kept.values()) / int(tokens.lengths.sum())


class StepCost(NamedTuple):
    """Seconds of a step whatever is in it, and operations a second of its examples."""

    fixed: float
    rate: float
    made: float = 0.0
    """Seconds of making an example, which no accelerator shortens."""


def _making(batches: Any, size: int) -> float:
    batches.batch(0)
    return once(lambda: batches.batch(1)) / size


class Timed(NamedTuple):
    """A step to be timed, and the operations in it."""

    run: Callable[[], None]
    flops: float


@kept_memory()
def _cost(make: Callable[[int], Timed], most: int) -> StepCost:
    """Of steps of two examples, and of as many as fit the time, at most `most`.

    The first step of each size is not counted: memory is taken and libraries start then.
    """
    size, few = 2, _once_warm(make(2))
    if few.seconds > _BUDGET:  # a large network: its examples are all that counts
        return StepCost(0.0, few.flops / few.seconds)
    many = few
    while many.seconds < 2 * _BUDGET and size < most:
        size = min(most, 8 * size)
        many = _once_warm(make(size))
    if many is few or many.seconds <= few.seconds:
        return StepCost(0.0, many.flops / many.seconds)
    rate = (many.flops - few.flops) / (many.seconds - few.seconds)
    return StepCost(max(0.0, few.seconds - few.flops / rate), rate)


class _Taken(NamedTuple):
    seconds: float
    flops: float


def _once_warm(step: Timed) -> _Taken:
    step.run()
    return _Taken(min(once(step.run) for _ in range(2)), step.flops)


def _step(loss: Callable[[Any], Loss], batches: Any, modules: tuple[nn.Module, ...], bf16: bool) -> Callable[[], None]:
    """Forward and backward as `training.loop` does them: another batch each time, made beside the backward pass."""
    steps, ahead = count(), Ahead(batches, 1 << 60)
    for module in modules:
        module.train()

    def step() -> None:
        number = next(steps)
        with _arithmetic(modules[0], bf16):
            found = loss(ahead.batch(number))
        with ahead.meanwhile(number + 1):
            found.total.backward()
        for module in modules:
            module.zero_grad(set_to_none=True)

    return step


def _arithmetic(module: nn.Module, bf16: bool) -> Any:
    kind = next(module.parameters()).device.type
    return torch.autocast(kind, torch.bfloat16) if bf16 else nullcontext()


def _forward(shape: Shape, lengths: Any) -> float:
    """Operations of texts of these numbers of tokens."""
    return float(sum(length * shape.flops(length) for length in map(int, lengths))) / 3


def _examples(flops: float, guess: float, most: int) -> int:
    return int(max(1, min(most, _BUDGET * guess / flops)))
