"""One archive, opened: rows by number, features by name, neighbours, all of it mapped and none of it copied.

Names, arguments, defaults, return values and messages are bionemo-scdl's (0.1.3), so that its users change an import.
"""

from __future__ import annotations

import operator
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ingest.errors import CorruptError
from ingest.load.memmap.access import RowAccess
from ingest.load.memmap.archive import ArchiveSpec, header_of, sync_directory, write_metadata
from ingest.load.memmap.arrays import create_array
from ingest.load.memmap.changes import COPY_ENTRIES, Changeable
from ingest.load.memmap.collate import collate_sparse_matrix_batch
from ingest.load.memmap.dtypes import check_data_dtype
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex
from ingest.load.memmap.from_h5ad import H5adOptions, archive_of_h5ad
from ingest.load.memmap.names import VERSION, FileNames, Mode, NeighborSamplingStrategy
from ingest.load.memmap.neighbors import NEIGHBOR_DTYPES, Neighbors, NeighborSettings, has_neighbor_files
from ingest.load.memmap.opening import open_archive
from ingest.load.memmap.revise import changing, check_unchanged
from ingest.load.memmap.row_list import RowList
from ingest.load.memmap.rows import MappedRows, RowBatch, constant_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.load.memmap.header import SCDLHeader

__all__ = ["SingleCellMemMapDataset"]

Array = np.ndarray[Any, Any]

_IN_SPEC = (FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR)


class SingleCellMemMapDataset(RowAccess, Changeable, Dataset[torch.Tensor]):
    """Cells of one or several AnnData matrices, in arrays on the disk that are mapped into memory.

    An existing `data_path` is opened; otherwise an archive is made there of an h5ad file, or, all zero, of sizes.
    To other processes it travels as its path.

    Parameters
    ----------
    data_path
        The archive.
    h5ad_path
        What it is made of.
    num_elements, num_rows
        Stored entries and cells of one that is to be filled by hand and then saved.
    mode
        ``Mode.READ``: nothing can be changed by it. Of an archive that this user may not write it always is.
    paginated_load_cutoff, load_block_row_size
        What a cast loses is said once of a file below so many MB, and of every so many rows of a larger one. Memory
        is bounded either way.
    var_feature_index_name, obs_feature_index_name
        What the names of genes, or cells, are called where there are no columns.
    load_neighbors, neighbor_key, neighbor_sampling_strategy, fallback_to_identity
        Whether ``obsp[neighbor_key]`` is taken along, how one of a cell's neighbours is drawn, and whether a cell
        without any is silently its own.
    data_dtype
        Of values that are made of an h5ad file: of `INT_ORDER` or `FLOAT_ORDER`; None: float32.
    data_dtype_tolerance
        How far a cast may be off before it is warned of.
    use_X_not_raw
        Take X, not raw.X.

    Raises
    ------
    FileExistsError
        There is something at `data_path` already.
    FileNotFoundError
        There is no h5ad file, or `data_path` is no finished archive.
    ValueError
        Nothing says what to open or make; a type or strategy is none; the file lacks the matrix.
    IngestError
        The file or the archive is damaged, or the disk is full.
    """

    data: np.memmap[Any, Any]
    """Stored values, ``(n_entries,)``."""
    col_index: np.memmap[Any, Any]
    """The column of each, ``(n_entries,)``."""
    row_index: np.memmap[Any, Any]
    """Where rows begin, and the last one ends, ``(n_rows + 1,)``."""

    def __init__(
        self,
        data_path: str | os.PathLike[str],
        h5ad_path: str | os.PathLike[str] | None = None,
        num_elements: int | None = None,
        num_rows: int | None = None,
        mode: Mode | str = Mode.READ_APPEND,
        paginated_load_cutoff: int = 10_000,
        load_block_row_size: int = 1_000_000,
        var_feature_index_name: str = "var_feature_id",
        obs_feature_index_name: str = "obs_feature_id",
        load_neighbors: bool = False,
        neighbor_key: str = "next_cell_ids",
        neighbor_sampling_strategy: NeighborSamplingStrategy | str = NeighborSamplingStrategy.RANDOM,
        fallback_to_identity: bool = True,
        data_dtype: str | None = None,
        data_dtype_tolerance: float = 1e-08,
        use_X_not_raw: bool = False,  # noqa: N803 # the peer's name
    ) -> None:
        self.data_path = data_path
        self.mode = Mode(mode)
        self.header: SCDLHeader | None = None
        self.metadata: dict[str, Any] = {}
        self._version, self._width, self._home = VERSION, 0, Path(data_path).absolute()
        self.paginated_load_cutoff, self.load_block_row_size = paginated_load_cutoff, load_block_row_size
        self.var_feature_index_name, self.obs_feature_index_name = var_feature_index_name, obs_feature_index_name
        self.data_dtype_tolerance, self.use_X_not_raw = data_dtype_tolerance, use_X_not_raw
        self._var_feature_index, self._obs_feature_index = VariableFeatureIndex(), ObservedFeatureIndex()
        if data_dtype is not None:
            check_data_dtype(data_dtype)
        self.dtypes = {
            FileNames.DATA.value: data_dtype or "float32",
            FileNames.COLPTR.value: "uint32",
            FileNames.ROWPTR.value: "uint64",
            **{name.value: dtype for name, dtype in NEIGHBOR_DTYPES.items()},
        }
        self.load_neighbors = load_neighbors
        self._neighbors: Neighbors | None = None
        self._neighbor_settings = NeighborSettings()
        if load_neighbors:
            self._neighbor_settings = NeighborSettings(neighbor_key, neighbor_sampling_strategy, fallback_to_identity)
        self._begin(h5ad_path, num_elements, num_rows)

    def _begin(self, h5ad_path: str | os.PathLike[str] | None, num_elements: int | None, num_rows: int | None) -> None:
        exists = Path(self.data_path).exists()
        if exists and self.mode is Mode.CREATE_APPEND:
            raise FileExistsError(f"Output directory already exists: {self.data_path}")
        if exists and h5ad_path is not None:
            raise FileExistsError(
                "Invalid input; both an existing SCMMAP and an h5ad file were passed. "
                "Please pass either an existing SCMMAP or an h5ad file."
            )
        if exists:
            self.load(self.data_path)
        elif h5ad_path is not None:
            self.load_h5ad(h5ad_path)
        elif isinstance(num_rows, int) and isinstance(num_elements, int):
            self._make_empty(num_elements, num_rows)
        else:
            raise ValueError("An np.memmap path, an h5ad path, or the number of elements and rows is required")

    def __getstate__(self) -> dict[str, Any]:
        # Mapped arrays would travel as copies of the whole archive.
        mapped = ("data", "col_index", "row_index", "_values", "_columns", "_row_ends", "_rows", "_neighbors")
        state = {name: value for name, value in self.__dict__.items() if name not in mapped}
        return {**state, "_var_feature_index": None, "_obs_feature_index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        mode, path = self.mode, self.data_path
        self._open(self._home)
        self.mode, self.data_path = mode, path
        self._map_neighbors()

    def version(self) -> str:
        """Return the version of bionemo-scdl whose interface this is."""
        return VERSION

    @property
    def header_path(self) -> str:
        """Where the header is."""
        return os.path.join(self.data_path, FileNames.HEADER.value)  # noqa: PTH118 # a str, as the peer's

    def load(self, stored_path: str | os.PathLike[str]) -> None:
        """Open the archive at `stored_path`.

        Raises
        ------
        FileNotFoundError
            It is not there, or not a finished archive.
        CorruptError
            Its files do not belong together.
        """
        self._open(stored_path)
        if self.load_neighbors and not self._map_neighbors():
            warnings.warn("Neighbor loading was requested but neighbor files are missing", stacklevel=2)

    def load_h5ad(self, anndata_path: str | os.PathLike[str]) -> None:
        """Make the archive of an h5ad file: of all of it or, where anything stands in the way, of nothing.

        Raises
        ------
        FileNotFoundError, ValueError, IngestError
            As the class says.
        """
        options = H5adOptions(
            data_dtype=self.dtypes[FileNames.DATA.value],
            tolerance=self.data_dtype_tolerance,
            use_x=self.use_X_not_raw,
            cutoff_mb=self.paginated_load_cutoff,
            block_rows=self.load_block_row_size,
            var_name=self.var_feature_index_name,
            obs_name=self.obs_feature_index_name,
            neighbor_key=self._neighbor_settings.key if self.load_neighbors else None,
        )
        archive_of_h5ad(self.data_path, anndata_path, options)
        self._open(self.data_path)
        self._map_neighbors()  # of a key that is not there has been warned

    def save(self, output_path: str | None = None) -> bool:
        """Bring what has been changed, and what the archive consists of, to the disk; then it can be opened elsewhere.

        Raises
        ------
        NotImplementedError
            `output_path` is given: it is saved where it is.
        FileNotFoundError
            A file has been removed meanwhile.
        """
        if output_path is not None:
            raise NotImplementedError(
                f"{self.data_path}: save() brings it to the disk where it is; copy the folder to {output_path}"
            )
        self._check_writable()
        for name in (FileNames.VERSION, *_IN_SPEC):
            if not (self._home / name.value).exists():
                raise FileNotFoundError(
                    f"{self._home / name.value} is gone, which was there when the archive was opened"
                )
        for array in (self.data, self.row_index, self.col_index):
            array.flush()
        if self._neighbors is not None:
            self._neighbors.flush()
        with changing(self._home):
            check_unchanged(self._home, self._spec)
            self._describe()
        return True

    def _describe(self) -> None:
        """Write what the archive consists of."""
        self._var_feature_index.save(str(self._home / FileNames.VAR_FEATURES.value))
        self._obs_feature_index.save(str(self._home / FileNames.OBS_FEATURES.value))
        self.header = header_of(self._spec, self._var_feature_index, self._obs_feature_index)
        part = self._home / f".{FileNames.HEADER.value}"
        self.header.save(part)
        part.rename(self._home / FileNames.HEADER.value)
        self.metadata["num_rows"] = self.number_of_rows()
        write_metadata(self._home, self.metadata)
        sync_directory(self._home)

    def _check_writable(self) -> None:
        if self.mode is Mode.READ:
            raise PermissionError(f"{self.data_path} was opened with mode='r': nothing is changed by it")

    def concat(
        self,
        other_dataset: SingleCellMemMapDataset | list[SingleCellMemMapDataset],
        extend_copy_size: int = COPY_ENTRIES,
        output_path: str | os.PathLike[str] | None = None,
        destroy_on_copy: bool = False,
    ) -> None:
        """Append the cells of other archives to this one, in place or at `output_path`, which it then is.

        Types widen as they have to. What is broken off is undone when the archive is next opened.

        Parameters
        ----------
        extend_copy_size
            Entries copied at once.
        destroy_on_copy
            Append where this archive is and then move it to `output_path`, and remove the arrays of the others at the
            end.

        Raises
        ------
        ValueError
            These are no archives, or some have whole numbers and some have fractions.
        FileExistsError
            There is something at `output_path`.
        """
        others = [other_dataset] if isinstance(other_dataset, SingleCellMemMapDataset) else other_dataset
        if not isinstance(others, list):
            others = [other_dataset]
        wrong = next((other for other in others if not isinstance(other, SingleCellMemMapDataset)), None)
        if wrong is not None:
            raise ValueError(
                f"Expecting either a {SingleCellMemMapDataset} or a list thereof. Actually got: {type(wrong)}"
            )
        self._append(others, extend_copy_size, output_path, destroy_on_copy=destroy_on_copy)

    def get_rows(self, indices: Sequence[int] | Array) -> RowBatch:
        """Return many cells at once, in the order asked for, as one CSR matrix of constant width.

        The arrays are the caller's, and used again when nobody refers to them any more.

        Raises
        ------
        IndexError
            There is no such row.
        CorruptError
            The archive is damaged there.
        """
        rows = np.atleast_1d(np.asarray(indices))
        if len(rows) and rows.dtype.kind not in "iu":
            raise IndexError(f"rows are asked for by number, not by {rows.dtype}")
        rows = rows.astype(np.int64, copy=False)
        try:
            return self._rows.take(rows, self._width)
        except CorruptError as error:
            if error.kind != "scdl-column":
                raise
            self._widen(error)
        return self._rows.take(rows, self._width)

    def _widen(self, error: CorruptError) -> None:
        """Make room in batches for all columns: bionemo-scdl stores a raw.X of more genes than var has."""
        self._width = self._rows.largest_column() + 1
        warnings.warn(f"{error}: batches are {self._width} columns wide", stacklevel=4)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the cells of a DataLoader's batch, taken together, as a list of what ``dataset[i]`` returns."""
        if type(self).__getitem__ is not SingleCellMemMapDataset.__getitem__:
            return [self[index] for index in indices]  # whoever has it otherwise means it
        return RowList(self.get_rows(indices), self._rows.buffers)

    def __getitem__(self, idx: int | Sequence[int] | Array) -> torch.Tensor:
        """Return a cell as a tensor ``(2, nnz)``: values, and columns in the type that holds both.

        Several cells come as one sparse CSR tensor of constant width: what a DataLoader with a BatchSampler as its
        sampler and ``batch_size=None`` asks for.
        """
        if np.ndim(idx) == 0:
            return torch.from_numpy(np.stack(self.get_row(operator.index(idx))[0]))  # type: ignore[arg-type]
        return collate_sparse_matrix_batch(self.get_rows(idx))  # type: ignore[arg-type]  # it has dimensions

    def __len__(self) -> int:
        return self.number_of_rows()

    def var_features(self) -> VariableFeatureIndex:
        """Return the columns of var."""
        return self._var_feature_index

    def obs_features(self) -> ObservedFeatureIndex:
        """Return the columns of obs."""
        return self._obs_feature_index

    def number_of_values(self) -> int:
        """Return how many values there are, stored or not."""
        return int(sum(self._var_feature_index.number_of_values()))

    def number_of_rows(self) -> int:
        """Return how many cells there are.

        Raises
        ------
        ValueError
            Features are of another number.
        """
        n_features, n_rows = self._var_feature_index.number_of_rows(), self.row_index.size - 1
        if len(self._var_feature_index) > 0 and n_features != n_rows:
            raise ValueError(
                f"The number of rows in the feature index {n_features} "
                f"does not correspond to the number of rows in the row_index {n_rows}"
            )
        return n_features

    def number_nonzero_values(self) -> int:
        """Return how many values are stored."""
        return int(self.data.size)

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

    @property
    def _has_neighbors(self) -> bool:
        return self._neighbors is not None

    @property
    def neighbor_key(self) -> str:
        """Where in obsp neighbours come from."""
        return self._neighbor_settings.key

    @property
    def neighbor_sampling_strategy(self) -> NeighborSamplingStrategy:
        """Which of a cell's neighbours is taken."""
        return NeighborSamplingStrategy(self._neighbor_settings.strategy)

    @property
    def fallback_to_identity(self) -> bool:
        """Whether a cell without neighbours is silently its own."""
        return self._neighbor_settings.fallback_to_identity

    @property
    def _spec(self) -> ArchiveSpec:
        return ArchiveSpec(len(self.row_index) - 1, len(self.data), *(self.dtypes[name.value] for name in _IN_SPEC))

    def _make_empty(self, num_elements: int, num_rows: int) -> None:
        spec = ArchiveSpec(num_rows, num_elements, *(self.dtypes[name.value] for name in _IN_SPEC))
        folder = self._home = Path(self.data_path).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FileNames.VERSION.value).write_text(f'"{VERSION}"')
        self.mode = Mode.CREATE_APPEND
        arrays = {name: create_array(folder, name, *described) for name, described in spec.arrays.items()}
        self._map(arrays[FileNames.DATA], arrays[FileNames.ROWPTR], arrays[FileNames.COLPTR])

    def _open(self, stored_path: str | os.PathLike[str]) -> None:
        fallback = {name: self.dtypes[name.value] for name in _IN_SPEC}
        found = open_archive(stored_path, self.mode, fallback)
        self.data_path, self._home = stored_path, Path(stored_path).absolute()  # wherever this process goes
        if self.mode is not Mode.READ:
            self.mode = Mode.READ_APPEND
        for name, (dtype, _) in found.spec.arrays.items():
            self.dtypes[name.value] = dtype
        self.header, self.metadata = found.header, found.metadata
        self._var_feature_index, self._obs_feature_index = found.var, found.obs
        self._map(found.data, found.row_index, found.col_index)
        self._width = constant_width(found.var.column_dims())

    def _map_neighbors(self) -> bool:
        """Map neighbours where they are asked for; return whether there are any."""
        self._neighbors = None
        if self.load_neighbors and has_neighbor_files(self._home):
            self._neighbors = Neighbors(self._home, len(self.row_index) - 1, self.mode)
        return self._neighbors is not None

    def _map(self, data: np.memmap[Any, Any], row_index: np.memmap[Any, Any], col_index: np.memmap[Any, Any]) -> None:
        self.data, self.row_index, self.col_index = data, row_index, col_index
        self._values, self._row_ends, self._columns = (a.view(np.ndarray) for a in (data, row_index, col_index))
        self._rows = MappedRows(data, col_index, row_index)
