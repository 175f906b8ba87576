"""The two stages that train: the inverse cloze task, and REALM with refresh going on beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm.errors import MismatchError
from realm.methods.ict import InverseCloze
from realm.methods.proposing import stale_copy
from realm.methods.realm import RealmPretraining
from realm.methods.together import Together
from realm.models.encoders import DenseEncoder
from realm.training import parallel
from realm.training.loop import Hooks, train
from realm.training.pairs import Beside, RandomCrops
from realm.training.pairs import InverseCloze as InverseClozeBatches
from realm.training.state import read_facts, restore
from realm.types import Batches, Index, Method, TrainableEncoder
from realm.workflows.pretraining.comparison import live_recall
from realm.workflows.refreshing import open_refreshing
from realm.workflows.workbench import Workbench, retriever_rates


def warm_start(bench: Workbench) -> Path:
    """Train the retriever with the inverse cloze task; the folder of its last checkpoint."""
    config, checkpoints = bench.config, bench.run.warm_start / "checkpoints"
    found = bench.latest_checkpoint(checkpoints)
    start = int(_facts(found, bench)["step"]) if found else 0
    if found and start >= config.ict.steps:
        return found
    with bench.reporter.stage("load the encoder"):
        encoder = bench.encoder(found)
    method = _cloze(bench, encoder)
    optimizer = bench.optimizer(method.parameter_groups(), retriever_rates(config.ict))
    if found:
        restore(found, optimizer)
        bench.rewind("ict", start)
    # Without steps nothing is asked of them, and a corpus too small for a pair is no hindrance.
    batches: Any = _pairs(bench, config.ict.batch_size) if config.ict.steps else None
    _told_ranks(bench, "ict", start)
    with bench.reporter.stage("warm start: inverse cloze task", "steps") as progress:
        progress(start, config.ict.steps)
        train(
            method,
            batches,
            optimizer,
            bench.schedule(config.ict.steps),
            stage="ict",
            folder=bench.run.warm_start,
            metrics=bench.metrics,
            start_step=start,
            autocast=bench.autocast,
            hooks=Hooks(
                before_step=lambda step: bench.at(step, "the warm start"),
                checkpoint_facts=lambda: {"snapshot": bench.searched.snapshot.fingerprint},
                on_event=bench.follow(progress),
                should_stop=bench.should_stop,
                meet=bench.meet,
            ),
        )
    return _last(bench, checkpoints)


def pretrain_jointly(bench: Workbench, warm: Path) -> Path:
    """Train retriever and reader together (Guu et al. 2020, section 3); the folder of the last checkpoint."""
    config, checkpoints = bench.config, bench.run.checkpoints
    found = bench.latest_checkpoint(checkpoints)
    facts = _facts(found, bench) if found else {}
    start, index_step = int(facts.get("step", 0)), int(facts.get("index_step", 0))
    if found and start >= config.realm.steps:
        return found
    encoder, reader = bench.encoder(found or warm), bench.reader(found)
    stale: TrainableEncoder | None = None
    maker = encoder
    if found:
        maker = DenseEncoder.from_pretrained(found / "index_encoder").to(bench.device).eval()
        stale = stale_copy(maker)
    folder = bench.embed(maker, index_step)
    method = bench.method(encoder, reader, folder, stale)
    if not found:
        bench.calibrate_null(method)
    optimizer = bench.optimizer(
        method.parameter_groups(),
        {
            **retriever_rates(config.realm),
            "reader": config.realm.reader_learning_rate,
            "head": config.realm.head_learning_rate,
        },
    )
    if found:
        restore(found, optimizer)
        bench.rewind("realm", start, lambda event: int(event.get("index_step", 0)) > index_step)
    batches: Batches = bench.sentences
    trained: Method = method
    if config.realm.ict_weight:
        pairs = _pairs(bench, config.realm.ict_batch_size)
        batches = Beside(batches, pairs, offset=config.ict.steps)
        cloze, weight = _cloze(bench, encoder), config.realm.ict_weight
        trained = Together(method, cloze, weight=weight, name="ict", total=parallel.total)
    at = start

    def tell(line: str) -> None:
        bench.reporter.note(line)
        bench.event({"stage": "realm", "kind": "refresher", "step": at, "message": line})

    refreshing = open_refreshing(
        bench.run,
        encoder,
        bench.searched.snapshot,
        config.refresh,
        config.loop,
        device=bench.device,
        max_tokens=config.data.max_passage_tokens,
        begin=start,
        facts=facts,
        always=[0],
        on_event=tell,
        ranks=bench.ranks,
    )

    method.watch = refreshing.observe

    def before_step(step: int) -> Mapping[str, float]:
        """Swap when an index came back; how old the one in use is."""
        nonlocal at
        at = step
        bench.at(step, "REALM")
        swap = refreshing.before_step(step)
        if swap is not None:
            index = bench.open_index(swap.folder)
            told: dict[str, Any] = {"kind": "partial-refresh", "embedded": swap.embedded}
            if swap.embedded == 1:  # the probe is searched once a refresh, not at each of its parts
                told = {"kind": "refresh", **_live_recall(bench, method, swap.encoder, index)}
            method.swap(index, swap.encoder)
            bench.event({"stage": "realm", **told, "step": step, "index_step": swap.step})
        return refreshing.age(step)

    if not found:  # where the curve begins
        figures = _live_recall(bench, method, method.index_encoder, method.index)
        bench.event({"stage": "realm", "kind": "refresh", "step": 0, "index_step": 0, **figures})
    _told_ranks(bench, "realm", start)
    try:
        with bench.reporter.stage("REALM pre-training", "steps") as progress:
            progress(start, config.realm.steps)
            train(
                trained,
                batches,
                optimizer,
                bench.schedule(config.realm.steps, config.realm.accumulation),
                stage="realm",
                folder=bench.run.path,
                metrics=bench.metrics,
                start_step=start,
                autocast=bench.autocast,
                hooks=Hooks(
                    before_step=before_step,
                    checkpoint_facts=lambda: {
                        **refreshing.facts(),
                        "snapshot": bench.searched.snapshot.fingerprint,
                    },
                    on_event=bench.follow(progress),
                    describe=bench.describe,
                    should_stop=bench.should_stop,
                    meet=bench.meet,
                ),
            )
    finally:
        refreshing.close()
    return _last(bench, checkpoints)


def _live_recall(
    bench: Workbench, method: RealmPretraining, encoder: TrainableEncoder, index: Index
) -> dict[str, float]:
    """`live_recall` before `index` is taken into use; on rank 0, which alone tells of it."""
    if not bench.ranks.first:
        return {}
    return live_recall(encoder, index, bench.probe, bench.searched, bench.masked, bench.config, before=method)


def _told_ranks(bench: Workbench, stage: str, step: int) -> None:
    """That several processes train from here, and how many."""
    if bench.ranks.size > 1:
        bench.event({"stage": stage, "kind": "ranks", "step": step, "world_size": bench.ranks.size})


def _cloze(bench: Workbench, encoder: DenseEncoder) -> InverseCloze:
    """The warm start's task, over the pairs of all ranks."""
    # A bag of word pieces keeps little for its backward pass; every chunk would make a gradient as large as its table.
    chunk_tokens = None if encoder.query_tower.is_bag else bench.config.ict.chunk_tokens
    return InverseCloze(encoder, gather=parallel.gather, chunk_tokens=chunk_tokens)


def _pairs(bench: Workbench, batch_size: int) -> InverseClozeBatches | RandomCrops:
    """The warm start's pairs: `batch_size` a step, fewer where the corpus is small."""
    config = bench.config
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "max_query_tokens": config.data.max_query_tokens,
        "max_passage_tokens": config.data.max_passage_tokens,
        "seed": config.loop.seed,
        "rank": parallel.rank(),
        "world_size": parallel.world_size(),
        "shrink": True,
    }
    pairs: InverseClozeBatches | RandomCrops
    if config.ict.pairs == "crop":
        pairs = RandomCrops(bench.searched.snapshot, shares=config.ict.crop_shares, **common)
    else:
        removal = config.ict.removal_probability
        pairs = InverseClozeBatches(bench.searched.snapshot, removal_probability=removal, **common)
    if pairs.batch_size < batch_size:
        bench.reporter.note(f"a small corpus: {pairs.batch_size} pairs a step instead of {batch_size}")
    return pairs


def _facts(checkpoint: Path, bench: Workbench) -> dict[str, Any]:
    """What a checkpoint says of itself. MismatchError when it was trained over another snapshot."""
    facts, ours = read_facts(checkpoint), bench.searched.snapshot.fingerprint
    if facts.get("snapshot", ours) != ours:
        raise MismatchError(
            f"{checkpoint} was trained over snapshot {facts['snapshot']}: found snapshot {ours}; it belongs to another "
            "run, take it out of this one"
        )
    return facts


def _last(bench: Workbench, checkpoints: Path) -> Path:
    last = bench.latest_checkpoint(checkpoints)
    assert last is not None, "the loop saves its last step"
    return last
