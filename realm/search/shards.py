"""Vectors on disk: numbered `.npy` shards of consecutive rows under one manifest.

Legend: N rows, D vector size. Storage types: float32; bfloat16 (kept as int16 bits, numpy has no word for it);
int8 with one float32 scale a row (`vector = scale * integer`, each component off by at most half a scale, that is
max|v| / 254, so an inner product with q is off by at most |q|_1 * max|v| / 254).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm.errors import ArtefactError, MismatchError, UsageError
from realm.files import changed, hashes_of, read_manifest, sha256_of, write_manifest

FORMAT = "realm vectors"
VERSION = 1
HASHED = 1 << 30
"""Bytes of an index up to which its shards are read through when it is opened: a second's worth."""
_AGAIN = "delete its folder, a run then embeds the snapshot again"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Block:
    """Consecutive rows as they are stored."""

    data: Tensor
    """Float32, BFloat16 or Int8 [N, D]"""
    scale: Tensor | None = None
    """Float32[N], int8 only."""

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __getitem__(self, at: slice | Tensor) -> Block:
        return Block(self.data[at], None if self.scale is None else self.scale[at])

    def float(self) -> Tensor:
        """Float32[N, D]; no copy where the storage is float32."""
        return self.data.float() if self.scale is None else self.data.float() * self.scale[:, None]

    def to(self, device: torch.device | str) -> Block:
        return Block(self.data.to(device), None if self.scale is None else self.scale.to(device))


def pack(vector_ND: Tensor, dtype: str) -> Block:
    """Float[N, D] in a storage type by name. UsageError for another name."""
    if dtype not in DTYPES:
        raise UsageError(f"storage type {dtype!r}: expected one of {', '.join(DTYPES)}")
    if dtype != "int8":
        return Block(vector_ND.to(DTYPES[dtype]).contiguous())
    scale_N = vector_ND.float().abs().amax(1) / 127
    step_N1 = torch.where(scale_N > 0, scale_N, 1.0)[:, None]  # a zero vector stays zero
    return Block((vector_ND.float() / step_N1).round().clamp(-127, 127).to(torch.int8), scale_N)


def dtype_name(dtype: torch.dtype) -> str:
    """The storage type's name. UsageError where vectors can't be kept as `dtype`."""
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise UsageError(f"vectors of {dtype}: expected one of {', '.join(DTYPES)}")


def shard_name(number: int, first: int, last: int) -> str:
    """`shard-00003-000049152-000065536.npy`: number, first row, row after the last."""
    return f"shard-{number:05d}-{first:09d}-{last:09d}.npy"


def write_shard(path: Path, block: Block) -> None:
    """Write a shard whole or not at all; the vectors' file comes last, and a file that is there stays.

    So several machines may write the same shard: one that was given up for lost and comes late changes nothing.
    """
    data = block.data.detach().cpu()
    if block.scale is not None:
        _write_array(_scale_path(path), block.scale.detach().cpu().numpy())
    _write_array(path, (data.view(torch.int16) if data.dtype == torch.bfloat16 else data).numpy())


def _write_array(path: Path, array: np.ndarray) -> None:
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(staged, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        _name(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise ArtefactError(f"can't write {path} ({error.strerror}): make room; finished shards are kept") from error


def _name(staged: Path, path: Path) -> None:
    """Rename a file, unless the name is taken: then it goes."""
    try:
        os.link(staged, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(staged, path)
        return
    staged.unlink()


def _scale_path(path: Path) -> Path:
    return path.with_name(path.name.replace("shard-", "scale-", 1))


def read_shard(path: Path, rows: int, dim: int, dtype: str) -> Block:
    """Map a shard into memory and check it against what the manifest says. ArtefactError where they differ."""
    stored = np.dtype({"float32": np.float32, "bfloat16": np.int16, "int8": np.int8}[dtype])
    data = torch.from_numpy(_map(path, (rows, dim), stored))
    if dtype == "int8":
        return Block(data, torch.from_numpy(_map(_scale_path(path), (rows,), np.dtype(np.float32))))
    return Block(data.view(torch.bfloat16) if dtype == "bfloat16" else data)


def _map(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    try:
        # Copy-on-write: torch wants writable memory, the file must never change.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise ArtefactError(f"shard {path} is missing: the index is damaged; {_AGAIN}") from None
    except (ValueError, OSError, EOFError) as error:
        raise ArtefactError(f"shard {path} is cut short or damaged ({error}): {_AGAIN}") from error
    if array.shape != shape or array.dtype != dtype:
        raise ArtefactError(
            f"shard {path} holds {array.shape} {array.dtype}, its manifest promises {shape} {dtype}: "
            f"the index is damaged; {_AGAIN}"
        )
    return np.asarray(array)


def shard_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of a shard's files, by name."""
    return {file.name: sha256_of(file) for file in (path, _scale_path(path)) if file.exists()}


def seal(
    folder: Path,
    shards: list[tuple[int, int]],
    *,
    dim: int,
    dtype: str,
    facts: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest of a folder of finished shards, given as (first row, row after the last).

    hashes: SHA-256 of its files by name, where they are known; read from the files when None.
    """
    own = {"rows", "dim", "dtype", "shards", "hashes"} & set(facts)
    if own:
        raise UsageError(f"facts of an index may not be named {', '.join(sorted(own))}: these describe the vectors")
    listed = [{"file": shard_name(i, a, b), "first": a, "last": b} for i, (a, b) in enumerate(shards)]
    rows = shards[-1][1] if shards else 0
    facts = {**facts, "hashes": hashes_of(folder, "*.npy") if hashes is None else dict(sorted(hashes.items()))}
    write_manifest(folder, format=FORMAT, version=VERSION, rows=rows, dim=dim, dtype=dtype, shards=listed, **facts)


def read_vectors(
    folder: Path, *, snapshot: str | None = None, encoder: str | None = None, rows: tuple[int, int] | None = None
) -> tuple[list[Block], dict[str, Any]]:
    """Map the shards of a finished folder. Returns blocks in the order of rows, and the manifest.

    rows: (first, after the last) of those that are wanted, all when None; other shards are not touched.
    ArtefactError: missing, unfinished, cut short, of another format. MismatchError: made from another snapshot or
    by another encoder than the fingerprints given.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, format=FORMAT, version=VERSION)
    for name, wanted in (("snapshot", snapshot), ("encoder", encoder)):
        if wanted is not None and manifest.get(name) != wanted:
            raise MismatchError(
                f"the index {folder} was made with {name} {manifest.get(name)}, this {name} is {wanted}: "
                f"open them with their own partner or embed again"
            )
    blocks, at, files = [], 0, []
    for shard in manifest["shards"]:
        if shard["first"] != at:
            raise ArtefactError(f"{folder}: {shard['file']} begins at row {shard['first']}, expected {at}; embed again")
        at = shard["last"]
        if Path(shard["file"]).name != shard["file"]:
            raise ArtefactError(f"{folder} names the shard {shard['file']!r}: expected a file of its own; {_AGAIN}")
        low, high = (0, at) if rows is None else (max(rows[0], shard["first"]), min(rows[1], at))
        if rows is not None and low >= high:
            continue
        path = folder / shard["file"]
        block = read_shard(path, at - shard["first"], manifest["dim"], manifest["dtype"])
        blocks.append(block if rows is None else block[low - shard["first"] : high - shard["first"]])
        files += [file for file in (path, _scale_path(path)) if file.exists()]
    if at != manifest["rows"]:
        raise ArtefactError(f"{folder}: its shards hold {at} rows, expected {manifest['rows']}; embed again")
    hashes = manifest.get("hashes")
    if rows is not None and isinstance(hashes, dict):
        hashes = {file.name: hashes[file.name] for file in files if file.name in hashes}
    else:
        files = list(folder.glob("*.npy"))
    small = sum(file.stat().st_size for file in files) <= HASHED
    if small and (other := changed(folder, hashes)) is not None:
        raise ArtefactError(f"shard {folder / other} is not what its manifest was written for (SHA-256): {_AGAIN}")
    return blocks, manifest
