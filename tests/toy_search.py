"""A small encoder and a small snapshot, importable by name so that a refresher process can open them too."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from realm.errors import TrainingError
from realm.files import fingerprint
from realm.types import NO_ROW, Tokens

VOCABULARY = 60


class ToyEncoder(nn.Module):
    """Mean of word vectors, with dropout, so that a wrong mode shows."""

    def __init__(self, dim: int = 8, seed: int = 0, delay: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, dim)
        with torch.no_grad():
            self.words.weight.copy_(torch.randn(VOCABULARY, dim, generator=torch.Generator().manual_seed(seed)))
        self.dropout = nn.Dropout(0.5)
        self.delay = delay
        self.batches: list[tuple[int, int]] = []

    @property
    def dim(self) -> int:
        return self.words.embedding_dim

    @property
    def device(self) -> torch.device:
        return self.words.weight.device

    def encode_passages(self, tokens: Tokens) -> Tensor:
        time.sleep(self.delay)
        self.batches.append((int(tokens.ids.shape[0]), int(tokens.ids.shape[1])))
        word_NLD = self.dropout(self.words(tokens.ids)) * tokens.mask[..., None]
        return word_NLD.sum(1) / tokens.lengths[:, None]

    encode_queries = encode_passages

    def save(self, folder: Path) -> None:
        save_file({"words": self.words.weight.detach()}, folder / "model.safetensors")

    save_pretrained = save


class ToySource:
    """N passages of random words, the same for the same (rows, seed)."""

    def __init__(self, rows: int, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self._lengths = draw.integers(1, 20, rows).astype(np.int32)
        self._ids = torch.from_numpy(draw.integers(1, VOCABULARY, (rows, 20)))
        self.fingerprint = fingerprint(f"toy {rows} {seed}")

    def __len__(self) -> int:
        return len(self._lengths)

    def passage_lengths(self, max_tokens: int) -> np.ndarray:
        return np.minimum(self._lengths, max_tokens)

    def passages(self, rows: Tensor, max_tokens: int) -> Tokens:
        assert int(rows.min()) > NO_ROW
        lengths = torch.from_numpy(self.passage_lengths(max_tokens))[rows].long()
        ids = self._ids[rows][:, : int(lengths.max())]
        return Tokens(ids, torch.zeros_like(ids), lengths)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "toy.json").write_text(json.dumps({"rows": len(self)}))


class NamedToyEncoder(ToyEncoder):
    """Can say which parameters it has."""

    def fingerprint(self) -> str:
        return fingerprint(self.words.weight.detach().numpy().tobytes())


def open_named_toy(parameters: Path, snapshot: Path) -> tuple[NamedToyEncoder, ToySource, int]:
    encoder, source, max_tokens = open_toy(parameters, snapshot)
    named = NamedToyEncoder(encoder.dim)
    named.load_state_dict(encoder.state_dict())
    return named, source, max_tokens


def open_toy(
    parameters: Path,
    snapshot: Path,
    delay: float = 0.0,
    fail: str | None = None,
    journal: str | None = None,
    gate: str | None = None,
) -> tuple[ToyEncoder, ToySource, int]:
    """What a refresher opens: notes it in the file `journal`, waits for the file `gate`, fails with `fail`."""
    if journal is not None:
        with open(journal, "a") as stream:
            stream.write(f"{parameters.name}\n")
    while gate is not None and not Path(gate).exists():
        time.sleep(0.01)
    if fail is not None:
        raise TrainingError(fail)
    weights = load_file(parameters / "model.safetensors")["words"]
    torch.randn(3)  # as an encoder's initialisation would
    encoder = ToyEncoder(weights.shape[1], delay=delay)
    with torch.no_grad():
        encoder.words.weight.copy_(weights)
    return encoder, ToySource(json.loads((snapshot / "toy.json").read_text())["rows"]), 16
