"""``PATH.partial``: the plan, the arrays, and what says which parts of them are there.

::

    plan.json               what the archive will hold, and its parts: create-only; it stays in the archive
    data.npy, …             the arrays, in full length from the beginning
    parts/000000.json       one a finished part: its bytes are on the disk; all are gone before the archive has its name
    .lock                   whoever converts holds it

Everything in ``parts`` may be written twice, since two attempts at a part write the same bytes. ``parts`` vanishes as a
whole once all else is on the disk: a folder without it is an archive but for its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ingest.documents import seal, unseal
from ingest.errors import ConfigError, ConflictError, CorruptError, DiskFullError, ForeignPlanError
from ingest.load.memmap.archive import ArrayFiles, Staging, disk_full, sync_folder
from ingest.load.memmap.convert.base import LossyCast
from ingest.load.memmap.convert.plan import ConversionPlan
from ingest.load.memmap.names import FileNames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.load.memmap.convert.plan import Part

__all__ = ["PLAN_NAME", "PartReceipt", "Workplace", "has_arrays", "read_plan"]

PLAN_NAME = "plan.json"
_PARTS = "parts"
_EMPTIED = ".parts"
_LOCK = ".lock"
_TEMPORARY = ".write-"
_RECEIPT = re.compile(r"(\d{6,})\.json\Z")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Of file systems without locks: two at once write the same bytes there, and both end right."""
_SPARE_BYTES = 16 << 20
"""For features and receipts, beside the arrays."""


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """A finished part."""

    plan: str
    """Digest of the plan."""
    part: int
    n_rows: int
    n_entries: int
    lossy: LossyCast | None = None
    """The entry that its cast has changed most, where that was allowed."""

    @classmethod
    def of(cls, plan: ConversionPlan, part: Part, lossy: LossyCast | None = None) -> PartReceipt:
        """Return the receipt of one part."""
        return cls(plan.digest, part.number, part.place.n_rows, part.n_entries, lossy)

    def sealed(self) -> bytes:
        """Return it as a document; how much a cast changes stands there as a text, since it may be no number."""
        document = asdict(self)
        if self.lossy is not None:
            del document["lossy"]["size"]
        return seal(document)

    @classmethod
    def unseal(cls, data: bytes, *, where: str) -> PartReceipt:
        """Read it back.

        Raises
        ------
        CorruptError
            The bytes are damaged, or no receipt.
        """
        try:
            document = unseal(data, key=where)
            if (lossy := document["lossy"]) is not None:
                document["lossy"] = LossyCast(**lossy, size=float(lossy["difference"]))
            return cls(**{name: document[name] for name in cls.__slots__})
        except (KeyError, TypeError, ValueError, CorruptError) as error:
            said = f"{where} is damaged ({error})"
            raise CorruptError(said, kind="receipt-damaged", hint="remove it, and its part is made again") from error


class Workplace:
    """The folder in which one archive is made.

    Parameters
    ----------
    path
        Of the archive to be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._staging = Staging(path)

    @property
    def path(self) -> Path:
        """Of the archive to be."""
        return self._staging.path

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return self._staging.folder

    @property
    def is_described(self) -> bool:
        """Whether all of the archive is on the disk, and lacks nothing but its name."""
        return (self.folder / FileNames.METADATA.value).exists() and not (self.folder / _PARTS).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who works here; the folder is made.

        Raises
        ------
        ConflictError
            Somebody else is at work (kind ``at-work``).
        ConfigError
            There is something else by the folder's name (kind ``in-the-way``), or it cannot be made (``bad-path``).
        """
        while True:
            self._make()
            handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(handle)
                if self._is_current(handle):
                    with self._undone(handle):
                        yield
                    return
            finally:
                os.close(handle)  # which frees it, as the process's end does

    @contextmanager
    def _undone(self, handle: int) -> Iterator[None]:
        """Leave nothing behind where nothing has begun."""
        try:
            yield
        except BaseException:
            if self._is_current(handle) and not (self.folder / PLAN_NAME).exists():
                self._staging.discard()
            raise

    def _make(self) -> None:
        try:
            names = [one.name for one in self.folder.iterdir()] if self.folder.exists() else []
            if PLAN_NAME not in names and not all(map(_is_ours, names)):
                raise ConfigError(
                    f"{self.folder} is in the way: it holds something else",
                    kind="in-the-way",
                    hint="remove it, or name another place by -o",
                )
            self._staging.make()
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{error.filename} is in the way: no folder", kind="in-the-way") from error
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be made ({error.strerror})", kind="bad-path") from error

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"{self.path} is being written by another process",
                kind="at-work",
                hint="wait for it; should it end early, the same command goes on",
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def _is_current(self, handle: int) -> bool:
        """Whether the lock is still that of the folder: whoever held it before may have renamed that since."""
        try:
            return os.fstat(handle).st_ino == (self.folder / _LOCK).stat().st_ino
        except FileNotFoundError:
            return False

    def enter(self, plan: ConversionPlan) -> ConversionPlan:
        """Return the plan that is being followed here: the one that is there, or else `plan`, for which room is made.

        Raises
        ------
        ForeignPlanError
            Another plan is there; what differs is said.
        ConfigError
            The disk has no room for the arrays (kind ``disk-full``).
        CorruptError
            The plan that is there is damaged.
        """
        there = read_plan(self.folder)
        if there is not None:
            if there.digest != plan.digest:
                raise ForeignPlanError(
                    f"{self.folder} is of another conversion: {plan.differences(there)}",
                    hint=f"remove {self.folder} to begin again, or name another place by -o",
                )
            self._check_arrays(there)
            return there
        self._clear()
        self._check_room(plan)
        (self.folder / _PARTS).mkdir()
        ArrayFiles.create(self.folder, plan.spec).close()
        _write_new(self.folder / PLAN_NAME, plan.sealed())
        return plan

    def _clear(self) -> None:
        """Remove what is there without a plan: arrays of who knows what, whose first row pointer nobody writes."""
        for path in list(self.folder.iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def _check_arrays(self, plan: ConversionPlan) -> None:
        if not has_arrays(self.folder, plan):
            said = f"{self.folder} lacks arrays that the conversion has made there"
            raise CorruptError(said, kind="arrays-damaged", hint=f"remove {self.folder}, and begin again")
        if not self.is_described:
            (self.folder / _PARTS).mkdir(exist_ok=True)

    def _check_room(self, plan: ConversionPlan) -> None:
        free = shutil.disk_usage(self.folder).free
        needed = plan.spec.n_bytes + _SPARE_BYTES
        if needed > free:
            raise DiskFullError(
                f"{self.path} takes {plan.spec.n_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free there",
                hint="make room, write to another disk, or store values in a smaller type by --data-dtype",
            )

    def done(self, plan: ConversionPlan) -> dict[int, PartReceipt]:
        """Return the receipts of finished parts by number.

        Raises
        ------
        CorruptError
            A receipt is damaged, or of another plan.
        """
        if self.is_described:
            return {part.number: PartReceipt.of(plan, part) for part in plan.parts}
        files = sorted(path for path in (self.folder / _PARTS).iterdir() if _RECEIPT.match(path.name))
        found = [_read_receipt(path, plan) for path in files]
        return {receipt.part: receipt for receipt in found}

    def put(self, receipt: PartReceipt) -> None:
        """Write down that a part's bytes are on the disk.

        Raises
        ------
        ConfigError
            The disk is full (kind ``disk-full``).
        OSError
            The folder is gone.
        """
        _write_new(self.folder / _PARTS / f"{receipt.part:06d}.json", receipt.sealed())

    def finish(self) -> None:
        """Call the folder, in which all but its name is there, by that name.

        Raises
        ------
        ConfigError
            ``disk-full``, or something has appeared by that name (kind ``exists``).
        """
        parts, emptied = self.folder / _PARTS, self.folder / _EMPTIED
        if parts.exists():
            with disk_full(self.folder):
                sync_folder(self.folder)
            parts.rename(emptied)
        shutil.rmtree(emptied, ignore_errors=True)
        (self.folder / _LOCK).unlink(missing_ok=True)
        self._staging.commit()

    def forsake(self) -> None:
        """Remove a folder of which nothing is wanted: the archive is there."""
        self._staging.discard()

    def tidy(self) -> None:
        """Remove what ended attempts have left: parts of files, folders of features that never got their names."""
        for path in list(self.folder.iterdir()):
            if path.name in {PLAN_NAME, _LOCK, _PARTS} or path.name in {one.value for one in FileNames}:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    return name in {_LOCK, _PARTS, *(one.value for one in FileNames)} or name.startswith(_TEMPORARY)


def has_arrays(folder: Path, plan: ConversionPlan) -> bool:
    """Return whether arrays of the plan's sizes are in a folder."""
    paths = {folder / name.value: np.dtype(dtype).itemsize * n for name, (dtype, n) in plan.spec.arrays.items()}
    return all(path.exists() and path.stat().st_size == size for path, size in paths.items())


def read_plan(folder: Path) -> ConversionPlan | None:
    """Return the plan that an archive, finished or in the making, was made by; None where it has none.

    Raises
    ------
    CorruptError
        It is damaged.
    """
    try:
        data = (folder / PLAN_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return ConversionPlan.unseal(data, where=str(folder / PLAN_NAME))


def _read_receipt(path: Path, plan: ConversionPlan) -> PartReceipt:
    receipt = PartReceipt.unseal(path.read_bytes(), where=str(path))
    is_part = path.name == f"{receipt.part:06d}.json" and 0 <= receipt.part < len(plan.parts)
    if not is_part or receipt != PartReceipt.of(plan, plan.parts[receipt.part], receipt.lossy):
        raise CorruptError(f"{path} is of another conversion", kind="receipt-damaged", hint="remove it")
    return receipt


def _write_new(path: Path, data: bytes) -> None:
    """Write a file, all of it or nothing, durably; one that is there is replaced by the same."""
    part = path.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    with disk_full(path.parent):
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        number = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
