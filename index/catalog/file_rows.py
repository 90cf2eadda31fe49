"""At which row of its file a cell stands: the barcode says it, in the file's own obs index.

obs_metadata lists cells without their rows. That it lists them in the order of the files is likely and nowhere
promised, so each file's names are looked at: a few small reads, several files at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import SourceError
from ingest.fetch.h5ad_obs import obs_names
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_table import open_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from ingest.source import Source

__all__ = ["FileRows"]

_AHEAD = 16
"""Files whose names are being read, or wait to be asked for."""
_HELD = 4
"""Files whose names are kept after they were asked for: a sample's cells may come in several batches."""

_Int64 = np.ndarray[Any, np.dtype[np.int64]]


class FileRows:
    """Rows of cells by their barcodes; a context manager.

    Parameters
    ----------
    sources
        Sample number -> its file, in the order in which they will probably be asked for.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._pool = ThreadPoolExecutor(_AHEAD // 2)
        self._coming: dict[int, Future[pa.StringArray]] = {}
        self._names: OrderedDict[int, pa.StringArray | None] = OrderedDict()
        self._next = 0
        self.unreadable: dict[int, SourceError] = {}
        """Samples whose file cannot be looked at, and why: their rows are as the metadata lists them."""
        self.foreign: dict[int, int] = {}
        """Samples of which so many cells are not in their file."""

    def __enter__(self) -> FileRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def rows(self, sample: int, places: _Int64, barcodes: pa.Array) -> _Int64:
        """Return the rows int64 ``(n,)`` of cells of one sample.

        A cell that the file does not have gets a row beyond its end, where nothing will be read instead.

        Parameters
        ----------
        places
            int64 ``(n,)``: the cells' places among those that the metadata lists for the sample.
        barcodes
            ``(n,)``.

        Raises
        ------
        ConfigError, TransientError
            The store refuses, or does not answer.
        """
        names = self._names_of(sample)
        if names is None:
            return places
        if not len(places) or (
            places[-1] < len(names) and pc.all(pc.equal(names.take(pa.array(places)), barcodes)).as_py()
        ):
            return places
        found = pc.index_in(barcodes, value_set=names)
        rows: _Int64 = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        foreign = rows < 0
        if foreign.any():
            self.foreign[sample] = self.foreign.get(sample, 0) + int(foreign.sum())
        return np.where(foreign, len(names) + places, rows)

    def _names_of(self, sample: int) -> pa.StringArray | None:
        if sample in self._names:
            self._names.move_to_end(sample)
            return self._names[sample]
        self._look_ahead(sample)
        try:
            names = self._coming.pop(sample).result()
        except SourceError as error:
            self.unreadable[sample] = error
            names = None
        self._names[sample] = names
        while len(self._names) > _HELD:
            self._names.popitem(last=False)
        return names

    def _look_ahead(self, sample: int) -> None:
        wanted = [sample] if sample not in self._coming else []
        while len(self._coming) + len(wanted) < _AHEAD and self._next < len(self._sources):
            if self._next != sample and self._next not in self._coming and self._next not in self._names:
                wanted.append(self._next)
            self._next += 1
        for number in wanted:
            self._coming[number] = self._pool.submit(_names, self._sources[number])


def _names(source: Source) -> pa.StringArray:
    with open_h5ad(source, warm=True) as file:
        return obs_names(file, np.arange(open_table(file, "obs").n_rows))
