"""Several archives in one folder, made of many h5ad files at once, and flattened into one archive."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.load.memmap.dataset import SingleCellMemMapDataset
from ingest.load.memmap.features import VariableFeatureIndex
from ingest.load.memmap.from_h5ad import H5adOptions, archive_of_h5ad
from ingest.load.memmap.names import VERSION, FileNames

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["SingleCellCollection"]


class SingleCellCollection:
    """Archives of h5ad files, one each, below one folder; names and arguments are bionemo-scdl's.

    ::

        cells = SingleCellCollection("work")
        cells.load_h5ad_multi("h5ads")                     # recursively
        cells.flatten("archive", destroy_on_copy=True)     # one archive, in the order of the files' paths

    ``python -m ingest memmap h5ads -o archive`` does the same without a copy of each on the way.

    Parameters
    ----------
    data_path
        The folder; made where there is none.
    """

    def __init__(self, data_path: str | os.PathLike[str]) -> None:
        self.data_path = data_path
        self.metadata: dict[str, int] = {}
        self.fname_to_mmap: dict[Path, SingleCellMemMapDataset] = {}
        """The archives by path, in the order in which they came."""
        self._var_feature_index = VariableFeatureIndex()
        Path(data_path).mkdir(parents=True, exist_ok=True)
        version = Path(data_path) / FileNames.VERSION.value
        if not version.exists():
            version.write_text(json.dumps(VERSION))

    def version(self) -> str:
        """Return the version of bionemo-scdl whose interface this is."""
        return VERSION

    def load_h5ad(
        self,
        h5ad_path: str | os.PathLike[str],
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        use_X_not_raw: bool = False,  # noqa: N803 # the peer's name
    ) -> None:
        """Make an archive of one file, and take it in.

        Raises
        ------
        FileExistsError
            There is one of a file with that name already.
        FileNotFoundError, ValueError, IngestError
            As `SingleCellMemMapDataset`.
        """
        options = H5adOptions(cutoff_mb=paginated_load_cutoff, block_rows=load_block_row_size, use_x=use_X_not_raw)
        place = self._place(h5ad_path)
        if place.exists():
            raise FileExistsError(f"Output directory already exists: {place}")
        archive_of_h5ad(place, h5ad_path, options)
        self._take(place)

    def load_h5ad_multi(
        self,
        directory_path: str | os.PathLike[str],
        max_workers: int = 5,
        use_processes: bool = False,
        data_dtype: str | None = None,
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        use_X_not_raw: bool = False,  # noqa: N803 # the peer's name
    ) -> None:
        """Make archives of all h5ad files below a folder, several at once; take them in by their paths' order.

        Parameters
        ----------
        max_workers
            Files that are read at once.
        use_processes
            In processes instead of threads.

        Raises
        ------
        FileNotFoundError
            There is no h5ad file.
        FileExistsError
            Two files have the same name, or an archive of that name is there: none is made.
        RuntimeError
            A file cannot be made an archive of; those that can have been.
        """
        files = sorted(Path(directory_path).rglob("*.h5ad"))
        if not files:
            raise FileNotFoundError(f"There are no h5ad files in {directory_path}.")
        places = [self._place(file) for file in files]
        taken = next((place for number, place in enumerate(places) if place.exists() or place in places[:number]), None)
        if taken is not None:
            raise FileExistsError(f"Output directory already exists: {taken}")
        options = H5adOptions(data_dtype or "float32", 1e-8, use_X_not_raw, paginated_load_cutoff, load_block_row_size)
        for file, error in zip(files, _made(places, files, options, max_workers, use_processes), strict=True):
            if error is not None:
                raise RuntimeError(f"Error in processing file {file}: {error}") from error
        for place in places:
            self._take(place)

    def number_nonzero_values(self) -> int:
        """Return how many values are stored."""
        return sum(archive.number_nonzero_values() for archive in self.fname_to_mmap.values())

    def number_of_values(self) -> int:
        """Return how many values there are, stored or not."""
        return sum(archive.number_of_values() for archive in self.fname_to_mmap.values())

    def number_of_rows(self) -> int:
        """Return how many cells there are."""
        return sum(archive.number_of_rows() for archive in self.fname_to_mmap.values())

    def number_of_variables(self) -> list[int]:
        """Return the number of columns of each run of cells with the same genes."""
        return self._var_feature_index.column_dims() if len(self._var_feature_index) else [0]

    def shape(self) -> tuple[int, list[int]]:
        """Return the number of cells, and of columns as `number_of_variables` does."""
        return self.number_of_rows(), self.number_of_variables()

    def sparsity(self) -> float:
        """Return the share of values that are not stored, 0 where there are none at all."""
        total = self.number_of_values()
        return (total - self.number_nonzero_values()) / total if total else 0.0

    def flatten(
        self,
        output_path: str | os.PathLike[str],
        destroy_on_copy: bool = False,
        extend_copy_size: int = 10 * 1_024 * 1_024,
    ) -> None:
        """Make one archive of all.

        Parameters
        ----------
        destroy_on_copy
            Remove the collection's folder when the archive is complete: until then both take room.
        extend_copy_size
            Entries copied at once.

        Raises
        ------
        ValueError
            There are none, or some have whole numbers and some have fractions.
        FileExistsError
            There is something at `output_path`.
        """
        if not self.fname_to_mmap:
            raise ValueError(f"{self.data_path} has no archives to flatten: load h5ad files first")
        if destroy_on_copy and Path(output_path).absolute().is_relative_to(Path(self.data_path).absolute()):
            raise ValueError(f"{output_path} lies in {self.data_path}, which destroy_on_copy would destroy")
        place, *others = self.fname_to_mmap
        first = SingleCellMemMapDataset(place)  # one of its own: those of the collection stay what they are
        rest = [self.fname_to_mmap[other] for other in others]
        first.concat(rest, extend_copy_size=extend_copy_size, output_path=output_path, destroy_on_copy=destroy_on_copy)
        if destroy_on_copy:
            shutil.rmtree(self.data_path)

    def _place(self, h5ad_path: str | os.PathLike[str]) -> Path:
        return Path(self.data_path) / Path(h5ad_path).stem

    def _take(self, place: Path) -> None:
        archive = self.fname_to_mmap[place] = SingleCellMemMapDataset(place)
        self._var_feature_index.concat(archive.var_features())


def _made(
    places: Sequence[Path], files: Sequence[Path], options: H5adOptions, workers: int, use_processes: bool
) -> list[Exception | None]:
    """Make archives; return what stood in the way of each."""
    with _executor(workers, use_processes=use_processes) as pool:
        make = partial(archive_of_h5ad, options=options)
        futures = [pool.submit(make, place, file) for place, file in zip(places, files, strict=True)]
        found = [future.exception() for future in futures]
    for error in found:
        if error is not None and not isinstance(error, Exception):
            raise error
    return [error if isinstance(error, Exception) else None for error in found]


def _executor(workers: int, *, use_processes: bool) -> Executor:
    if use_processes:  # spawned: HDF5 and threads do not survive a fork
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    return ThreadPoolExecutor(workers, "cell-ingest-memmap")
