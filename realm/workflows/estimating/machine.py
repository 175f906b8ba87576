"""Short measurements of this machine with the code that will run: encoding, training, search, tokeniser, tagger.

Networks are built from the shape that the configuration names, with random weights: speed doesn't depend on them, and
nothing is downloaded. Where the shape isn't on this machine, that of a small sentence encoder stands in for it.

Legend: N sequences, L tokens, D vector size.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.config import PretrainConfig
from realm.errors import MissingLibraryError, UnavailableError
from realm.knowledge.text.taggers import PATTERN, load_tagger
from realm.models.backbone import max_tokens
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.training.optim import BertAdam
from realm.types import Tokens
from realm.workflows.estimating import shapes
from realm.workflows.estimating.shapes import Shape
from realm.workflows.parts import choose_bf16, choose_device

BUDGET_SECONDS = 0.1
"""What one measurement may take, unless a single repeat takes longer."""
INDEX_ROWS = 131_072
"""Rows of the index that search is measured on: more than a cache holds."""
SAMPLE = (
    "The harbour of Almby was rebuilt in 1874, after the storm that had sunk eleven ships in a single night.",
    "Its architect, Clara Moss, had studied in Vienna and came back with drawings of covered markets and iron bridges.",
    "Most of the granite was carried down the river from the quarries near Borstad, forty kilometres to the north.",
    "When the railway arrived on 3 May 1891, the population had doubled and the old fish hall was too small.",
    "The poet Emil Hart, who lived in the customs house, described the smell of tar and coffee in his letters.",
    "Today the warehouses hold workshops, a library and the regional museum, which opened in September 1988.",
)
"""Prose with about as many names and dates as an encyclopaedia has; made up."""


@dataclass(frozen=True)
class Work:
    """Sizes that a training will meet, in word pieces but for `characters`, which are those of a passage."""

    passages: int
    passage: int
    body: int
    query: int
    characters: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured, in numbers a second, seconds for one, or bytes for one."""

    device: str
    cores: int
    threads: int
    embed_threads: int
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
    embedded_a_second: float
    train_rate: float
    matmul: float
    head_rate: float
    """Of the product with the vocabulary."""
    bandwidth: float
    parameter_update: float
    search_one: float
    """Seconds a passage for one query."""
    search_batch: float
    """Seconds a passage for the queries of a part of a step."""
    tokenised_a_second: float
    tokenizer_note: str
    tagged_a_second: float | None
    tagger_note: str

    def encoder_flops(self, length: int) -> float:
        return self.encoder.flops(length)

    def reader_flops(self, length: int) -> float:
        return self.reader.flops(length)

    def optimizer_seconds(self, parameters: int) -> float:
        return parameters * self.parameter_update

    def vocabulary_seconds(self, positions: int) -> float:
        """Forward and backward of the output layer at masked positions."""
        return 6.0 * positions * self.reader.hidden * self.vocabulary / self.head_rate

    def rates(self) -> dict[str, Any]:
        """The measurements as JSON values."""
        return {
            "device": self.device,
            "cores": self.cores,
            "threads": self.threads,
            "encoder": self.encoder_note,
            "matmul_flops": round(self.matmul),
            "train_flops": round(self.train_rate),
            "memory_bytes_a_second": round(self.bandwidth),
            "embedded_passages_a_second": round(self.embedded_a_second, 2),
            "tokenised_passages_a_second": round(self.tokenised_a_second, 1),
            "tagged_passages_a_second": None if self.tagged_a_second is None else round(self.tagged_a_second, 1),
            "search_seconds_a_passage": self.search_one,
            "search_seconds_a_passage_of_a_batch": self.search_batch,
        }


def calibrate(config: PretrainConfig, work: Work) -> Machine:
    """Measure; torch's threads and random state are left as they were. UsageError: layers or lengths no model has."""
    base_memory = _resident()
    device = choose_device(config.loop.device)
    cores = available_cores()
    threads = config.loop.threads or torch.get_num_threads()
    embed_threads = config.refresh.threads if config.refresh.mode == "async" else threads
    with torch.random.fork_rng(devices=[]), _threads(threads):
        torch.manual_seed(0)
        whole, folder, note = shapes.local_shape(config.encoder.model)
        settings = shapes.cut(whole, config.encoder.layers, "encoder.layers")
        encoder = shapes.build_encoder(settings, config).to(device)
        shapes.check_lengths(encoder, config)
        reader_settings, _, _ = shapes.local_shape(config.reader.model)
        reader_settings = shapes.cut(reader_settings, config.reader.layers, "reader.layers")
        reader_parameters, reader_trained = shapes.count_reader(reader_settings, config)
        encoder_parameters, encoder_trained = shapes.count(encoder, config.encoder.freeze_word_embeddings)
        towers = 1 if config.encoder.tied else 2
        shape, reader_shape = shapes.shape_of(settings), shapes.shape_of(reader_settings)
        with _threads(embed_threads):
            embedded = _embedding_rate(encoder, work.passage)
        autocast = choose_bf16(config.loop.bf16, device)
        # An embedding layer alone has no arithmetic worth a rate: one layer of its model stands in for it.
        timed_settings = settings if shape.layers else shapes.cut(whole, 1, "encoder.layers")
        timed = encoder if shape.layers else shapes.build_encoder(timed_settings, config).to(device)
        timed_shape = shapes.shape_of(timed_settings)
        length = min(
            work.passage, max_tokens(timed.query_tower.backbone) or work.passage
        )  # a bag's texts may be longer
        trained, activation = _training_rate(timed, length, autocast)
        vectors = torch.empty(min(work.passages, INDEX_ROWS), encoder.dim).uniform_(-1, 1)
        index = ExactIndex(vectors, device=None if device.type == "cpu" else device)
        k = config.realm.num_candidates - 1
        one = _search_seconds(index, 1, k)
        some = min(config.realm.batch_size, 64)
        batch = _search_seconds(index, some, k * config.realm.over_retrieve) * config.realm.batch_size / some
        hidden = reader_shape.hidden
        tagged, tagger_note = _tagging_rate(config.data.spans_pipeline, work, cores)
        tokenised, tokenizer_note = _tokenising_rate(folder, work)
        return Machine(
            device=str(device),
            cores=cores,
            threads=threads,
            embed_threads=embed_threads,
            memory=_memory_of(device),
            base_memory=base_memory,
            dim=encoder.dim,
            vocabulary=int(reader_settings.vocab_size),
            encoder=shape,
            reader=reader_shape,
            encoder_note=f"{shape.layers} layers of {shape.hidden} ({note})",
            encoder_parameters=towers * encoder_parameters,
            encoder_trained=towers * encoder_trained,
            reader_parameters=reader_parameters,
            reader_trained=reader_trained,
            encoder_activation=activation if shape.layers else 16.0 * shape.hidden,
            reader_activation=activation
            * max(reader_shape.layers, 1)
            * reader_shape.hidden
            / (timed_shape.layers * timed_shape.hidden),
            embedded_a_second=embedded,
            train_rate=trained * length * timed_shape.flops(length),
            matmul=_product_rate(512, 512, 512, device),
            head_rate=_product_rate(64, hidden, int(reader_settings.vocab_size), device),
            bandwidth=_bandwidth(device),
            parameter_update=_update_seconds(device),
            search_one=one / len(index),
            search_batch=batch / len(index),
            tokenised_a_second=tokenised,
            tokenizer_note=tokenizer_note,
            tagged_a_second=tagged,
            tagger_note=tagger_note,
        )


# ---------------------------------------------------------------- rates


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a call; the first one is not counted unless it alone breaks the budget."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken[1:]) < BUDGET_SECONDS / 2:
        started = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - started)
        if sum(taken) > BUDGET_SECONDS:
            break
    return statistics.median(taken[1:] or taken)


def _grown(work: Callable[[int], object], device: torch.device, most: int) -> float:
    """Items a second of `work(count)`, at a count that fits the budget."""
    started = time.perf_counter()
    work(1)
    alone = time.perf_counter() - started
    if alone > 5 * BUDGET_SECONDS:  # a large network: what the first call costs once hardly counts
        return 1 / alone
    first = _seconds(lambda: work(2), device)
    count = max(2, min(most, int(2 * BUDGET_SECONDS / first)))
    return count / _seconds(lambda: work(count), device)


def _random_tokens(encoder: DenseEncoder, count: int, length: int) -> Tokens:
    vocabulary = int(encoder.query_tower.backbone.config.vocab_size)
    ids_NL = torch.randint(vocabulary, (count, length))
    return Tokens(ids_NL, torch.zeros_like(ids_NL), torch.full((count,), length))


def _embedding_rate(encoder: DenseEncoder, length: int) -> float:
    """Passages a second without gradients."""
    encoder.eval()
    tokens = _random_tokens(encoder, 512, length)

    def work(count: int) -> Tensor:
        with torch.inference_mode():
            return encoder.encode_passages(tokens.select(torch.arange(count))).cpu()

    return _grown(work, encoder.device, len(tokens))


def _training_rate(encoder: DenseEncoder, length: int, bf16: bool) -> tuple[float, float]:
    """Passages a second forward and backward, and the bytes that a token leaves behind in between."""
    encoder.train()
    device = encoder.device
    tokens = _random_tokens(encoder, 64, length)
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def work(count: int) -> None:
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            vector_ND = encoder.encode_passages(tokens.select(torch.arange(count)))
        vector_ND.float().square().sum().backward()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work(2)
    rate = _grown(work, device, len(tokens))
    encoder.zero_grad(set_to_none=True)
    return rate, sum(kept.values()) / (2 * length)


def _search_seconds(index: ExactIndex, queries: int, k: int) -> float:
    query_BD = torch.empty(queries, index.dim).uniform_(-1, 1)
    return _seconds(lambda: index.search(query_BD, k), index.device)


def _product_rate(rows: int, inner: int, columns: int, device: torch.device) -> float:
    a, b = torch.ones(rows, inner, device=device), torch.ones(inner, columns, device=device)
    return 2.0 * rows * inner * columns / _seconds(lambda: torch.mm(a, b), device)


def _bandwidth(device: torch.device) -> float:
    """Bytes a second of reading memory once."""
    numbers = torch.ones(1 << 25, device=device)
    return 4.0 * len(numbers) / _seconds(numbers.sum, device)


def _update_seconds(device: torch.device) -> float:
    """Seconds of the optimizer for one parameter."""
    parameter = nn.Parameter(torch.zeros(1 << 21, device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = BertAdam([{"params": [parameter]}], lr=1e-4)
    return _seconds(optimizer.step, device) / parameter.numel()


# ---------------------------------------------------------------- text


def sample_texts(count: int, characters: int) -> list[str]:
    """Texts of about so many characters, no two neighbours equal."""
    texts = []
    for start in range(count):
        text, sentences = "", islice(cycle(SAMPLE), start % len(SAMPLE), None)
        while len(text) < characters:
            text += next(sentences) + " "
        texts.append(text[:characters])
    return texts


def _tokenising_rate(folder: Path | None, work: Work) -> tuple[float, str]:
    """Passages a second through the tokenizer, and whose it is."""
    from realm.knowledge.build import bare_backend, load_tokenizer

    if folder is not None and (folder / "tokenizer.json").exists():
        backend, note = bare_backend(load_tokenizer(folder)), "the model's tokenizer"
    else:
        backend, note = _word_pieces(), "a stand-in for the tokenizer"

    texts = sample_texts(256, work.characters)
    seconds = _seconds(lambda: backend.encode_batch(texts, add_special_tokens=False), torch.device("cpu"))
    return len(texts) / seconds, note


def _word_pieces() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    letters = sorted({letter for text in SAMPLE for letter in text.lower()})
    words = sorted({word for text in SAMPLE for word in text.lower().split()})
    pieces = ["[UNK]", *letters, *(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def _tagging_rate(pipeline: str, work: Work, cores: int) -> tuple[float | None, str]:
    """Passages a second through the tagger with all its processes, and a word on it; None when it isn't here."""
    from realm.knowledge.text.spans import SHARD_ROWS
    from realm.knowledge.text.taggers import DROPPED_LABELS, tag_texts

    try:
        tagger = load_tagger(pipeline)
    except (UnavailableError, MissingLibraryError):
        return None, f"the pipeline {pipeline} is not installed here"

    def tag(count: int) -> list[Any]:
        return list(tag_texts(tagger, sample_texts(count, work.characters), DROPPED_LABELS, use_dates=True))

    processes = 1 if pipeline == PATTERN or work.passages <= 2 * SHARD_ROWS else min(cores, 8)
    note = f"{tagger.name}, {processes} process{'es' if processes > 1 else ''}"
    return processes * _grown(tag, torch.device("cpu"), 256), note


# ---------------------------------------------------------------- the machine


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _resident() -> int:
    """Resident memory of this process in bytes; 0 where the system doesn't tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _memory_of(device: torch.device) -> int | None:
    """Bytes of memory; a container's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text().strip() if limit.exists() else "max"
        return min(total, int(text)) if text.isdigit() else total
    except (OSError, ValueError):
        return None
