"""A machine as the cost model sees it: what it does a second, measured here and now, or computed (see `hardware`).

Networks are built from the shape that the configuration names, with random weights: speed doesn't depend on them, and
nothing is downloaded. Where the shape isn't on this machine, that of a small sentence encoder stands in for it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from realm.config import PretrainConfig
from realm.workflows.estimating import coding, measuring, networks, shapes
from realm.workflows.estimating.measuring import Growth
from realm.workflows.estimating.preparing import prepare
from realm.workflows.estimating.shapes import Shape
from realm.workflows.estimating.steps import Shapes, Work
from realm.workflows.estimating.texts import Lengths, Text
from realm.workflows.parts import choose_bf16, choose_device


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Rates are a second, of all its threads and workers."""

    device: str
    cores: int
    threads: int
    embed_threads: int
    workers: int = 1
    """Machines or devices that share embedding, tagging, searching and the steps."""
    memory: int | None
    """Of the device, in bytes."""
    base_memory: int
    """Of this process before anything was built: the libraries."""
    dim: int
    vocabulary: int
    encoder: Shape
    reader: Shape
    encoder_note: str
    encoder_parameters: int
    encoder_trained: int
    reader_parameters: int
    reader_trained: int
    encoder_activation: float
    """Bytes that a token leaves behind for the backward pass."""
    reader_activation: float
    ingested: float
    """Bytes of text read, cut and committed."""
    tidied: float
    """Bytes of text whose words are indexed and whose files are folded, behind it."""
    passed: float
    """Rows passed over while the ids of a batch are looked for; see `preparing`."""
    laid: float
    """Word pieces laid out in a snapshot."""
    scanned: float
    """Passages looked through for what can be masked."""
    tagged: float | None
    """Bytes of text, by one process of the tagger; None where it isn't here."""
    tagger_note: str
    tokenizer_note: str
    embed_rate: float
    """Operations of embedding, and of the two trainings' steps without search and optimizer; see `networks`."""
    ict_rate: float
    realm_rate: float
    ict_fixed: float = 0.0
    """Seconds of a part of a step whatever is in it: gradients of the whole vocabulary's vectors, say."""
    realm_fixed: float = 0.0
    ict_made: float = 0.0
    """Seconds of making an example on the host; the rates hold what of it outlasts the backward pass beside it."""
    realm_made: float = 0.0
    matmul: float
    host_matmul: float
    """The same of the host's cores, where indexes are built."""
    bandwidth: float
    parameter_update: float
    """Seconds of the optimizer for one parameter."""
    exchange: float = 0.0
    """Bytes a second between workers; 0 where there is one."""
    judged: float
    """Seconds of looking for a probe sentence's answer in the passages that were found."""
    hashed: float
    """Bytes whose SHA-256 is taken, as of every vector that is stored."""
    search_one: Growth
    """Seconds of a search for one query, by the rows that one worker searches."""
    search_batch: Growth
    """The same for the queries of a part of a step."""
    graphed: float | None
    """Seconds of a row's way into a small graph, and of a row's product codes; None where faiss isn't here."""
    coded: float | None

    def embedded(self, work: Work) -> float:
        """Passages a second."""
        return self.embed_rate * 3 / (work.passage * self.encoder.flops(work.passage))

    def step_overhead(self, trained: int) -> float:
        """Seconds of a step that don't depend on its examples: the optimizer, and the gradients' exchange."""
        moved = 2 * (self.workers - 1) / self.workers * 4 * trained
        return trained * self.parameter_update + (moved / self.exchange if self.exchange else 0.0)

    def rates(self, work: Work, lengths: Lengths) -> dict[str, Any]:
        """As JSON values."""
        return {
            "device": self.device,
            "cores": self.cores,
            "threads": self.threads,
            "workers": self.workers,
            "encoder": self.encoder_note,
            "matmul_flops": round(self.matmul),
            "memory_bytes_a_second": round(self.bandwidth),
            "embed_flops": round(self.embed_rate),
            "ict_flops": round(self.ict_rate),
            "realm_flops": round(self.realm_rate),
            "ingested_bytes_a_second": round(self.ingested),
            "tidied_bytes_a_second": round(self.tidied),
            "laid_pieces_a_second": round(self.laid),
            "tagged_bytes_a_second": None if self.tagged is None else round(self.tagged),
            "passed_rows_a_second": round(self.passed),
            "snapshot_passages_a_second": round(self.laid / lengths.pieces, 1),
            "scanned_passages_a_second": round(self.scanned, 1),
            "tagged_passages_a_second": None if self.tagged is None else round(self.tagged / lengths.bytes, 1),
            "embedded_passages_a_second": round(self.embedded(work), 2),
            "search_seconds_a_passage": self.search_one.row,
            "search_seconds_a_passage_of_a_batch": self.search_batch.row,
        }


def calibrate(config: PretrainConfig, text: Text) -> Machine:
    """Measure, in some seconds; torch's threads and random state are left as they were.

    UsageError: layers or lengths that no model has. DataError: too little text.
    """
    base_memory = measuring.resident()
    device = choose_device(config.loop.device)
    threads = config.loop.threads or torch.get_num_threads()
    embed_threads = config.refresh.threads if config.refresh.mode in ("async", "ray") else threads
    bf16 = choose_bf16(config.loop.bf16, device)
    with (
        torch.random.fork_rng(devices=[]),
        measuring.threads(threads),
        tempfile.TemporaryDirectory(prefix="realm-estimate-") as folder,
    ):
        torch.manual_seed(0)
        whole, place, note = shapes.local_shape(config.encoder.model)
        settings = shapes.cut(whole, config.encoder.layers, "encoder.layers")
        encoder = shapes.build_encoder(settings, config).to(device)
        shapes.check_lengths(encoder, config)
        reader_settings = shapes.cut(shapes.local_shape(config.reader.model)[0], config.reader.layers, "reader.layers")
        reader_parameters, reader_trained = shapes.count_reader(reader_settings, config)
        encoder_parameters, encoder_trained = shapes.count(encoder, config.encoder.freeze_word_embeddings)
        towers = 1 if config.encoder.tied else 2
        shape, reader_shape = shapes.shape_of(settings), shapes.shape_of(reader_settings)
        small = prepare(Path(folder), text.documents, config, place, int(settings.vocab_size))
        matmul = measuring.product_rate(512, 512, 512, device)
        with measuring.threads(embed_threads):
            embed_rate = networks.embedding_rate(encoder, shape, small, config, matmul)
        reader = networks.build_reader(reader_settings, config, small).to(device)
        vocabulary = int(reader_settings.vocab_size)
        both = Shapes(shape, reader_shape, vocabulary)
        realm = networks.realm_cost(encoder, reader, both, small, config, bf16, matmul / 2)
        ict = networks.ict_cost(encoder, shape, small, config, bf16)
        indexes = networks.searched(encoder.dim, Path(folder) / "indexes", device)
        k = config.realm.num_candidates - 1
        one = networks.search_growth(indexes, 1, k)
        some = min(config.realm.batch_size, 64)
        batch = networks.search_growth(indexes, some, k * config.realm.over_retrieve)
        times = config.realm.batch_size / some
        activation = networks.activation_bytes(encoder, small.snapshot, config, bf16)
        a_layer = activation / shape.layers / shape.hidden if shape.layers else _STAND_IN_ACTIVATION
        return Machine(
            device=str(device),
            cores=measuring.available_cores(),
            threads=threads,
            embed_threads=embed_threads,
            memory=measuring.memory_of(device),
            base_memory=base_memory,
            dim=encoder.dim,
            vocabulary=vocabulary,
            encoder=shape,
            reader=reader_shape,
            encoder_note=f"{shape.layers} layers of {shape.hidden} ({note})",
            encoder_parameters=towers * encoder_parameters,
            encoder_trained=towers * encoder_trained,
            reader_parameters=reader_parameters,
            reader_trained=reader_trained,
            encoder_activation=activation,
            reader_activation=a_layer * max(reader_shape.layers, 1) * reader_shape.hidden,
            ingested=small.ingested,
            tidied=small.tidied,
            passed=small.passed,
            laid=small.laid,
            scanned=small.scanned,
            tagged=small.tagged,
            tagger_note=small.tagger_note,
            tokenizer_note=small.tokenizer_note,
            embed_rate=embed_rate,
            ict_rate=ict.rate,
            realm_rate=realm.rate,
            ict_fixed=ict.fixed,
            realm_fixed=realm.fixed,
            ict_made=ict.made,
            realm_made=realm.made,
            matmul=matmul,
            host_matmul=matmul if device.type == "cpu" else measuring.product_rate(512, 512, 512, torch.device("cpu")),
            bandwidth=measuring.bandwidth(device),
            hashed=measuring.hash_rate(),
            parameter_update=measuring.update_seconds(device),
            judged=networks.judging_seconds(small, max(config.probe.ks)),
            search_one=one,
            search_batch=replace(batch, seconds=tuple(seconds * times for seconds in batch.seconds)),
            graphed=coding.graph_seconds(encoder.dim),
            coded=coding.code_seconds(encoder.dim),
        )


_STAND_IN_ACTIVATION = 110.0
"""Bytes a token and number of the width that a layer leaves behind."""
