"""What things are called in an SCDL archive, as its schema (0.0.9) and bionemo-scdl 0.1.3 have them.

::

    header.sch      what arrays there are, of which type and length
    data.npy        stored values of all cells, one after another       bare arrays, little-endian: no .npy header
    col_ptr.npy     the column of each
    row_ptr.npy     where each cell begins, and where the last one ends
    var_features/   columns of var, obs_features/ of obs: blocks of rows with like columns, as parquet
    neighbor_*.npy  obsp, where it was asked for: indptr, indices, values
    metadata.json   num_rows; written last: without it there is no archive
    version.json    of the library
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = [
    "FLOAT_ORDER",
    "INT_ORDER",
    "SCHEMA_VERSION",
    "VERSION",
    "ArrayDType",
    "Backend",
    "FileNames",
    "Mode",
    "NeighborSamplingStrategy",
]

VERSION = "0.1.3"
"""Of bionemo-scdl: the one whose archives and interface these are."""
SCHEMA_VERSION = (0, 1, 0)
"""What bionemo-scdl 0.1.3 writes into headers."""

INT_ORDER = ["uint8", "uint16", "uint32", "uint64"]
FLOAT_ORDER = ["float16", "float32", "float64"]


class FileNames(StrEnum):
    """Files and folders of an archive; the member's name is the array's name in the header."""

    DATA = "data.npy"
    ROWPTR = "row_ptr.npy"
    COLPTR = "col_ptr.npy"
    NEIGHBOR_INDICES = "neighbor_indices.npy"
    NEIGHBOR_INDICES_PTR = "neighbor_indptr.npy"
    NEIGHBOR_VALUES = "neighbor_values.npy"
    METADATA = "metadata.json"
    FEATURES = "features"
    VAR_FEATURES = "var_features"
    OBS_FEATURES = "obs_features"
    VERSION = "version.json"
    HEADER = "header.sch"


class ArrayDType(IntEnum):
    """Types of arrays, by the number that stands for each in a header."""

    UINT8_ARRAY = 1
    UINT16_ARRAY = 2
    UINT32_ARRAY = 3
    UINT64_ARRAY = 4
    FLOAT16_ARRAY = 5
    FLOAT32_ARRAY = 6
    FLOAT64_ARRAY = 7
    STRING_ARRAY = 8
    FIXED_STRING_ARRAY = 9

    @property
    def numpy_dtype_string(self) -> str:
        """The numpy name, ``string`` and ``fixed_string`` of texts."""
        return self.name.removesuffix("_ARRAY").lower()

    @classmethod
    def from_numpy_dtype(cls, dtype: object) -> ArrayDType:
        """Return the type of a numpy name, type or dtype.

        Raises
        ------
        ValueError
            No archive has arrays of that type.
        """
        name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
        try:
            return cls[f"{name.upper()}_ARRAY"]
        except KeyError:
            signed = "Signed integer dtypes are not supported" if name.startswith("int") else "Unsupported numpy dtype"
            raise ValueError(f"{signed}: {name}") from None


class Backend(IntEnum):
    """How arrays are stored, by the number in a header."""

    MEMMAP_V0 = 1


class Mode(StrEnum):
    """How files are opened."""

    CREATE_APPEND = "w+"
    READ_APPEND = "r+"
    READ = "r"
    CREATE = "w"


class NeighborSamplingStrategy(StrEnum):
    """Which of a cell's neighbours is taken."""

    RANDOM = "random"
    FIRST = "first"
