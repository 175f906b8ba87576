"""Networks and passages of the right shape with random contents, for machines that reach no hub.

Legend: N passages, M rows asked for, L tokens, D vector size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm.files import read_json, write_json
from realm.models.cloze import ClozeReader, ReaderSettings
from realm.models.encoders import DenseEncoder, EncoderSettings
from realm.models.tower import Tower
from realm.types import Tokens

SEPARATOR, FIRST_WORD = 102, 1000


def bert_config(layers: int, hidden: int) -> Any:
    """BERT-base for 12 and 768; heads of 64."""
    from transformers import BertConfig

    return BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
    )  # fmt: skip


def random_encoder(layers: int, hidden: int) -> DenseEncoder:
    """As the paper's: [CLS], a projection to 128, LayerNorm."""
    from transformers import BertModel

    settings = EncoderSettings(pooling="cls", segments=True, dropout=0.0)
    body = BertModel(bert_config(layers, hidden), add_pooling_layer=False)
    tower = Tower(body, pooling="cls", dim=128, normalize="layernorm", dropout=0.0, segments=True)
    return DenseEncoder(tower, settings)


def random_reader(layers: int, hidden: int, length: int) -> ClozeReader:
    """As the paper's, with the copy head."""
    from transformers import BertForMaskedLM

    settings = ReaderSettings(copy=True, segments=True, max_length=length)
    return ClozeReader(BertForMaskedLM(bert_config(layers, hidden)), settings, separator=SEPARATOR)


def random_tokens(count: int, length: int, device: torch.device) -> Tokens:
    """`count` texts of `length` word pieces."""
    ids = torch.randint(FIRST_WORD, 30_000, (count, length), device=device)
    return Tokens(ids, torch.zeros_like(ids), torch.full((count,), length, device=device))


class RandomPassages:
    """A passage source whose passages all have the same length, the longest: nothing is gained by sorting."""

    def __init__(self, count: int, length: int) -> None:
        self.length = length
        self.fingerprint = f"random {count} {length}"
        self._ids_NL = np.random.default_rng(0).integers(FIRST_WORD, 30_000, (count, length), dtype=np.uint16)

    def __len__(self) -> int:
        return len(self._ids_NL)

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        return np.full(len(self), min(self.length, max_tokens), np.int32)

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        ids_ML = torch.from_numpy(self._ids_NL[rows.numpy(), :max_tokens].astype(np.int64))
        return Tokens(ids_ML, torch.zeros_like(ids_ML), torch.full((len(ids_ML),), ids_ML.shape[1]))


class InBfloat16:
    """An encoder under autocast: how a passage is embedded where bf16 is in the hardware."""

    def __init__(self, encoder: DenseEncoder) -> None:
        self.encoder = encoder
        self.dim = encoder.dim
        self.device = encoder.device

    def encode_passages(self, tokens: Tokens) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.encoder.encode_passages(tokens)

    def encode_queries(self, tokens: Tokens) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.encoder.encode_queries(tokens)


def saver(encoder: DenseEncoder, shape: dict[str, int]) -> Callable[[Path], object]:
    """What publishes an encoder for `open_random`."""
    from safetensors.torch import save_model

    def save(folder: Path) -> None:
        save_model(encoder, str(folder / "model.safetensors"))
        write_json(folder / "shape.json", shape)

    return save


def open_random(
    parameters: Path, snapshot: Path, *, passages: int, length: int, device: str, bf16: bool
) -> tuple[Any, RandomPassages, int]:
    """What a refresher opens."""
    from safetensors.torch import load_model

    encoder = random_encoder(**read_json(parameters / "shape.json"))
    load_model(encoder, str(parameters / "model.safetensors"))
    encoder = encoder.to(device).eval()
    return (InBfloat16(encoder) if bf16 else encoder), RandomPassages(passages, length), length
