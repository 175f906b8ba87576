"""Flat arrays on disk: written as a stream, checked and memory-mapped when opened.

A ragged column of N texts or lists is two arrays: all values end to end, and int64[N + 1] where each begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from realm.errors import ArtefactError

_HEADER = 128
_AGAIN = "delete its folder, a run then builds the snapshot again"


class ArrayWriter:
    """One ``.npy`` file whose length is known only at the end; memory use does not depend on it."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any] | type, width: int | None = None) -> None:
        self.name = name
        self.dtype = np.dtype(dtype)
        self.width = width
        self.length = 0
        self._digest = hashlib.sha256()
        self._stream: BinaryIO = open(folder / f"{name}.npy", "wb")  # noqa: SIM115 (closed by `close`)
        self._stream.write(bytes(_HEADER))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,) if self.width is None else (self.length, self.width)

    def append(self, values: np.ndarray | Sequence[Any] | bytes) -> None:
        """Add values at the end. OverflowError when one doesn't fit the type."""
        if isinstance(values, bytes):
            data, count = values, len(values)
        else:
            array = np.ascontiguousarray(values)
            if array.dtype != self.dtype:
                array = array.astype(self.dtype, casting="unsafe") if array.size == 0 else _exactly(array, self.dtype)
            data, count = array.tobytes(), array.size
        self._digest.update(data)
        self._stream.write(data)
        self.length += count // (self.width or 1)

    def close(self) -> dict[str, Any]:
        """Write the header; the facts that the manifest keeps."""
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        text = repr(described).encode("latin1")
        start = b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little")
        self._stream.seek(0)
        self._stream.write(start + text.ljust(_HEADER - 11) + b"\n")
        self._stream.close()
        return {"dtype": self.dtype.str, "shape": list(self.shape), "sha256": self._digest.hexdigest()}

    def abandon(self) -> None:
        """Close without a header, after an error."""
        self._stream.close()


def _exactly(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    converted = array.astype(dtype)
    if not (converted == array).all():
        raise OverflowError(f"a value between {array.min()} and {array.max()} doesn't fit {dtype}")
    return converted


class RaggedWriter:
    """Values end to end in one file, beginnings in another named ``{name}_starts``."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any] | type, width: int | None = None) -> None:
        self.values = ArrayWriter(folder, name, dtype, width)
        self.starts = ArrayWriter(folder, f"{name}_starts", np.int64)
        self.starts.append(np.zeros(1, np.int64))

    def append(self, values: np.ndarray | bytes, lengths: Sequence[int] | np.ndarray) -> None:
        """Add several pieces: their values end to end, and how long each is."""
        begin = self.values.length
        self.values.append(values)
        self.starts.append(begin + np.cumsum(np.asarray(lengths, np.int64)))


class Arrays:
    """The writers of a folder, closed together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[ArrayWriter] = []

    def array(self, name: str, dtype: np.dtype[Any] | type, width: int | None = None) -> ArrayWriter:
        writer = ArrayWriter(self.folder, name, dtype, width)
        self._open.append(writer)
        return writer

    def ragged(self, name: str, dtype: np.dtype[Any] | type, width: int | None = None) -> RaggedWriter:
        writer = RaggedWriter(self.folder, name, dtype, width)
        self._open += [writer.values, writer.starts]
        return writer

    def close(self) -> dict[str, dict[str, Any]]:
        """Finish all files; facts by name."""
        return {writer.name: writer.close() for writer in self._open}

    def abandon(self) -> None:
        for writer in self._open:
            writer.abandon()


def open_array(folder: Path, name: str, facts: Mapping[str, Any]) -> np.ndarray:
    """Memory-map an array read-only; ArtefactError when the file is not the one its manifest describes."""
    path = folder / f"{name}.npy"
    dtype, shape = np.dtype(facts["dtype"]), tuple(facts["shape"])
    expected = _HEADER + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise ArtefactError(f"{folder} lacks {path.name}: the snapshot is damaged; {_AGAIN}") from None
    if found != expected:
        raise ArtefactError(f"{path} holds {found} bytes: expected {expected}; it is damaged, {_AGAIN}")
    if 0 in shape:
        return np.zeros(shape, dtype)  # an empty file region can't be mapped
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtefactError(f"{path} can't be read ({error}): {_AGAIN}") from error
    if array.dtype != dtype or array.shape != shape:
        raise ArtefactError(f"{path} is {array.dtype}{array.shape}: expected {dtype}{shape}; {_AGAIN}")
    return np.asarray(array)  # a plain view: the memmap subclass makes small look-ups slow


def verify_array(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Read an array through and compare it with its checksum; ArtefactError when it differs."""
    digest = hashlib.sha256()
    with open(folder / f"{name}.npy", "rb") as stream:
        stream.seek(_HEADER)
        while block := stream.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != facts["sha256"]:
        raise ArtefactError(f"{folder / name}.npy does not match its checksum: it is damaged, {_AGAIN}")


def ragged_index(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For M pieces: (piece, place within the piece, place in the flat values) of every element, end to end."""
    piece = np.repeat(np.arange(len(lengths)), lengths)
    before = np.cumsum(lengths) - lengths
    within = np.arange(len(piece)) - before[piece]
    return piece, within, starts[piece] + within
