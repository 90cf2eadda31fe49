"""Flip bits of a finished dataset, or cut its files, thousands of times: each is found before it is used.

::

    python -m ingest.testing.bit_flips --damages 10000 --seed 1

Every damage is one file of one dataset, drawn by seed and number. `verify` must name it; where it finds nothing, the
file says the same as before (a summary is compared by meaning, and padding has none), which reading everything and
comparing proves. Whatever `verify` says, a loader that is asked for all cells must refuse or deliver what it delivered
before: where a codec has no checksum of its own, it may deliver wrong counts of a chunk that `verify` names, and these
are counted. Now and then several files are damaged at once and repaired: contents must be what they were.

What has no sha256: records of runs, failures and garbage, which decide nothing; results of `hvg` and `qc`; and files of
an archive, whose format has none.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingest.digest import content_digest
from ingest.encode.decode import decode_chunk
from ingest.errors import IngestError
from ingest.layout import AMENDMENTS, CHUNKS, PLAN_KEY, RECEIPTS
from ingest.opened import open_plan
from ingest.repairing import repair_dataset
from ingest.settings import WorkSettings
from ingest.store.open import open_store
from ingest.summary_check import SUMMARY_KEYS
from ingest.testing.datasets import SilentObserver, open_serial_pool
from ingest.testing.entry_points.base import attempt
from ingest.testing.entry_points.dest import DEST
from ingest.testing.shelf import Shelf
from ingest.verifying import verify_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KINDS", "Campaign", "Damage", "Tally"]

KINDS = ("float32-deflate", "float32-lz4", "float32-zstd", "float32-none", "h5-deflate", "h5-none")
"""Datasets, as `ingest.testing.shelf` names them."""

_CLASSES = ("chunk", "receipt", "plan", "index", "survey", "genes", "summary")
_WEIGHTS = (40, 15, 8, 8, 8, 5, 16)
_LOADED = ("chunk", "summary")
"""What loaders read; they know nothing of plan and receipts."""
_LOAD = next(entry for entry in DEST if entry.name == "load")


@dataclass(frozen=True, slots=True)
class Damage:
    """One file changed."""

    what: str
    """Of `_CLASSES`."""
    key: str
    how: str
    """``flip <byte>.<bit>`` or ``cut <bytes>``."""
    data: bytes


@dataclass(slots=True)
class Tally:
    """What came of all damages."""

    damages: int = 0
    repairs: int = 0
    by_class: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(class, ``verify`` | ``harmless``) -> how many."""
    loaded: Counter[str] = field(default_factory=Counter)
    """What loaders made of them: ``refused``, ``same``, ``wrong, no checksum``."""
    faults: list[str] = field(default_factory=list)
    """What must not be."""


class Campaign:
    """Damages to datasets in a folder; each is undone before the next.

    Parameters
    ----------
    folder
        For the datasets.
    seed
        Of everything that is drawn.
    kinds
        Of `KINDS`.
    """

    def __init__(self, folder: Path, seed: int, kinds: Sequence[str] = KINDS) -> None:
        shelf = Shelf(folder)
        self._seed, self.tally = seed, Tally()
        self._dests = {kind: shelf.made(kind) for kind in kinds}
        self._files = {kind: _files(path) for kind, path in self._dests.items()}
        self._loaded = {kind: attempt(_LOAD, path).answer for kind, path in self._dests.items()}

    def damage(self, number: int) -> None:
        """Do damage number `number`, look at what is found, and undo it."""
        draw = random.Random(f"{self._seed}-{number}")  # noqa: S311 # repeatable, not secret
        kind = draw.choice(list(self._dests))
        dest, damage = self._dests[kind], self._drawn(draw, kind)
        good = self._files[kind][damage.key]
        (dest / damage.key).write_bytes(damage.data)
        try:
            self._judge(f"{number}: {kind} {damage.key} {damage.how}", kind, damage)
        finally:
            (dest / damage.key).write_bytes(good)

    def repair(self, number: int) -> None:
        """Damage several chunks and receipts at once, and have them made again."""
        draw = random.Random(f"{self._seed}-repair-{number}")  # noqa: S311 # repeatable, not secret
        kind = draw.choice(list(self._dests))
        dest = self._dests[kind]
        damages = [self._drawn(draw, kind, among=("chunk", "receipt", "summary")) for _ in range(3)]
        for damage in damages:
            (dest / damage.key).write_bytes(damage.data)
        self.tally.repairs += 1
        try:
            if fault := self._repaired(kind):
                names = ", ".join(f"{damage.key} {damage.how}" for damage in damages)
                self.tally.faults.append(f"repair {number}: {kind} {names}: {fault}")
        finally:
            shutil.rmtree(dest)
            for key, data in self._files[kind].items():
                (dest / key).parent.mkdir(parents=True, exist_ok=True)
                (dest / key).write_bytes(data)

    # -- drawing ---------------------------------------------------------------------------------------------------

    def _drawn(self, draw: random.Random, kind: str, among: Sequence[str] = _CLASSES) -> Damage:
        keys = [key for key in self._files[kind] if _class_of(key) in among]
        what = draw.choices(among, [_WEIGHTS[_CLASSES.index(name)] for name in among])[0]
        key = draw.choice([key for key in keys if _class_of(key) == what])
        data = bytearray(self._files[kind][key])
        if draw.random() < 0.8:
            at, bit = draw.randrange(len(data)), draw.randrange(8)
            data[at] ^= 1 << bit
            return Damage(what, key, f"flip {at}.{bit}", bytes(data))
        size = draw.randrange(len(data))
        return Damage(what, key, f"cut {size}", bytes(data[:size]))

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, name: str, kind: str, damage: Damage) -> None:
        tally = self.tally
        tally.damages += 1
        found = _found(self._dests[kind], damage)
        tally.by_class[damage.what, "verify" if found else "harmless"] += 1
        if damage.what not in _LOADED:
            if found is None:
                tally.faults.append(f"{name}: not found")
            return
        loaded = attempt(_LOAD, self._dests[kind])
        same = loaded.answer == self._loaded[kind]
        if loaded.fault:
            tally.faults.append(f"{name}: a loader says {loaded.fault}")
        elif found is None and damage.what == "chunk":
            tally.faults.append(f"{name}: not found")
        elif found is None and not same:
            tally.faults.append(f"{name}: not found, and a loader reads something else: {loaded.message}")
        tally.loaded["same" if same else "refused" if loaded.answer is None else f"other, of {damage.what}"] += 1
        if loaded.answer is not None and not same and "deflate" in kind and damage.what == "chunk":
            tally.faults.append(f"{name}: wrong counts in spite of a checksum")

    def _repaired(self, kind: str) -> str | None:
        """Repair a dataset; return what is not as it was."""
        path = self._dests[kind]
        opened = open_plan(open_store(str(path)))
        bad = verify_dataset(opened, threads=1).bad
        report = repair_dataset(opened, bad, WorkSettings(workers=1, pool="serial"), open_serial_pool, SilentObserver())
        if report.exit_code:
            return f"exit code {report.exit_code}, {report.unfinished or report.failures}"
        if findings := verify_dataset(open_plan(open_store(str(path))), threads=1, deep=True).findings:
            return f"verify finds {findings[0].message}"
        for key in (key for key in self._files[kind] if _class_of(key) == "chunk"):
            if content_digest(decode_chunk((path / key).read_bytes(), key=key)) != self._content(kind, key):
                return f"{key} has other content"
        return None if attempt(_LOAD, path).answer == self._loaded[kind] else "a loader reads something else"

    def _content(self, kind: str, key: str) -> str:
        return content_digest(decode_chunk(self._files[kind][key], key=key))


def _found(dest: Path, damage: Damage) -> str | None:
    """Return what verify says of the damage; None: nothing that names it."""
    try:
        report = verify_dataset(open_plan(open_store(str(dest))), threads=1)
    except IngestError as error:
        return error.message if Path(damage.key).name in str(error) or "plan.json" in str(error) else None
    for finding in report.findings:
        if damage.key in (finding.key, *finding.message.split()) or damage.key in finding.message:
            return finding.message
    return None


def _files(dest: Path) -> dict[str, bytes]:
    """Return the bytes of all files that are read back."""
    found = {path.relative_to(dest).as_posix(): path.read_bytes() for path in sorted(dest.rglob("*")) if path.is_file()}
    return {key: data for key, data in found.items() if data}


def _class_of(key: str) -> str:
    for prefix, name in ((CHUNKS, "chunk"), (RECEIPTS, "receipt"), (AMENDMENTS, "receipt"), (PLAN_KEY, "plan")):
        if key.startswith(prefix):
            return name
    for name in ("index", "survey", "genes"):
        if key.startswith(f"_ingest/{name}-"):
            return name
    return "summary" if key in SUMMARY_KEYS else "record"


def _report(tally: Tally) -> None:
    click.echo(f"{tally.damages:,} damages, {tally.repairs:,} repairs")
    for name in _CLASSES:
        found, harmless = tally.by_class[name, "verify"], tally.by_class[name, "harmless"]
        if found or harmless:
            click.echo(f"  {name:<8} {found:>6,} found by verify {harmless:>6,} say the same as before")
    for name, count in sorted(tally.loaded.items()):
        click.echo(f"  loaders  {count:>6,} {name}")
    for fault in tally.faults[:20]:
        click.echo(f"  FAULT    {fault}")
    click.echo(f"{len(tally.faults):,} faults")


@click.command()
@click.option("--damages", default=10_000, show_default=True, help="How many.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same damages.")
@click.option("--first", default=0, show_default=True, help="Number of the first: to look at one again.")
@click.option("--repair-every", default=100, show_default=True, metavar="N", help="A repair after so many.")
def main(damages: int, seed: int, first: int, repair_every: int) -> None:
    """Damage finished datasets of every codec again and again; exit code 1 where one damage was not found."""
    with tempfile.TemporaryDirectory(prefix="bit-flips-") as folder:
        campaign = Campaign(Path(folder), seed)
        for number in range(first, first + damages):
            campaign.damage(number)
            if (number + 1) % repair_every == 0:
                campaign.repair(number)
            if (number + 1) % 500 == 0:
                click.echo(f"{number + 1:,} of {damages:,}, {len(campaign.tally.faults)} faults", err=True)
        _report(campaign.tally)
        sys.exit(1 if campaign.tally.faults else 0)


if __name__ == "__main__":
    main()
