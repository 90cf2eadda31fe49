"""Damage done to a finished dataset in a folder: what disks, tools and people do to files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.documents import sha256_hex
from ingest.finish import finish
from ingest.layout import chunk_key, receipt_key
from ingest.ledger.receipts import Receipt, parse_receipt
from ingest.opened import OpenPlan, open_plan
from ingest.store.open import open_store

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DamageableDataset", "add_one_count", "flip_bit", "swap_two_counts"]


@dataclass(frozen=True, slots=True)
class DamageableDataset:
    """A dataset in a folder, opened and damaged by path."""

    path: Path
    format: str = "h5ad"

    def open(self) -> OpenPlan:
        """Read the plan, as another command would."""
        return open_plan(open_store(str(self.path)))

    def chunk(self, number: int) -> Path:
        """Return the file of one chunk."""
        return self.path / chunk_key(number, 6, f".{self.format}")

    def receipt(self, number: int) -> Path:
        """Return the file of one chunk's own receipt."""
        return self.path / receipt_key(number, number)

    def read_receipt(self, number: int) -> Receipt:
        """Return one chunk's own receipt."""
        return parse_receipt(self.receipt(number).read_bytes(), key=receipt_key(number, number))

    def reseal(self, number: int, **changes: Any) -> None:
        """Make receipt and summaries agree with the chunk's bytes, as if it had been written so."""
        data = self.chunk(number).read_bytes()
        receipt = self.read_receipt(number)
        entry = replace(receipt.chunks[0], size=len(data), sha256=sha256_hex(data), **changes)
        self.receipt(number).write_bytes(replace(receipt, chunks=(entry,)).seal())
        finish(self.open())

    def join_receipts(self, *numbers: int) -> Path:
        """Replace the receipts of consecutive chunks by one that covers them all."""
        receipts = [self.read_receipt(number) for number in numbers]
        joint = Receipt(receipts[0].plan, "joint", tuple(receipt.chunks[0] for receipt in receipts))
        (self.path / joint.key).write_bytes(joint.seal())
        for number in numbers:
            self.receipt(number).unlink()
        return self.path / joint.key

    def versions(self) -> dict[str, tuple[int, int]]:
        """Return modification time and inode of every chunk and receipt: what was not touched has the same."""
        files = [*(self.path / "chunks").iterdir(), *(self.path / "_ingest" / "receipts").iterdir()]
        return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in files}


def flip_bit(path: Path, *, at: int | None = None) -> None:
    """Flip one bit of a file, in the middle unless said."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x10
    path.write_bytes(data)


def swap_two_counts(path: Path) -> None:
    """Exchange different counts of one cell: every sum, number and maximum stays."""
    with h5py.File(path, "r+") as file:
        data, indptr = file["X/data"][()], file["X/indptr"][()]
        cell = next(c for c in range(len(indptr) - 1) if len(set(data[indptr[c] : indptr[c + 1]])) > 1)
        data[indptr[cell] : indptr[cell + 1]] = np.roll(data[indptr[cell] : indptr[cell + 1]], 1)
        file["X/data"][...] = data


def add_one_count(path: Path) -> None:
    """Add one to the first count; the file's shape stays."""
    with h5py.File(path, "r+") as file:
        data = file["X/data"][()]
        data[0] += 1
        file["X/data"][...] = data
