"""Choose the codec that a plan names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.encode.base import Codec

__all__ = ["CODECS", "FORMATS", "Format", "check_codec", "open_codec"]


@dataclass(frozen=True, slots=True)
class Format:
    """What chunks of one format are unless it is said otherwise."""

    dtypes: tuple[str, ...]
    """Of the values; the first is the usual one."""
    cells_per_chunk: int
    dense: bool
    """Whether zeros are stored, so that a file grows with its genes."""

    def dtype(self, *, allow_noninteger: bool) -> str:
        """Return the type of values that nobody has chosen: fractions need floats."""
        return "float32" if allow_noninteger else self.dtypes[0]


FORMATS: Mapping[str, Format] = {
    "h5ad": Format(("float32", "int32", "uint16"), 25_000, dense=False),
    "h5": Format(("int16", "int32", "float32"), 10_000, dense=True),
}
CODECS = ("deflate", "zstd", "lz4", "none")


def check_codec(format_name: str, codec: str, level: int, dtype: str | None = None) -> None:
    """Refuse chunks that cannot be written, without importing what writes them.

    Parameters
    ----------
    dtype
        Of a dataset's values; None: any.

    Raises
    ------
    ConfigError
        There is no such format, codec or level, or the format has no such type.
    """
    if format_name not in FORMATS:
        raise ConfigError(f"--format {format_name}: chunks are written as {', '.join(FORMATS)}", kind="bad-format")
    if codec not in CODECS:
        raise ConfigError(f"--codec {codec}: there is {', '.join(CODECS)}", kind="bad-codec")
    if not 0 <= level <= 9:
        raise ConfigError(f"--level {level}: levels go from 0 to 9", kind="bad-level")
    usual, *others = FORMATS[format_name].dtypes
    if dtype is not None and dtype not in (usual, *others):
        raise ConfigError(
            f"--dtype {dtype}: {format_name} chunks hold {usual} (default), {' or '.join(others)}", kind="bad-dtype"
        )


def open_codec(
    format_name: str, codec: str, level: int, *, threads: int = 1, about: Mapping[str, Any] | None = None
) -> Codec:
    """Return the codec for chunks of `format_name`, compressed by `codec` at `level`.

    Parameters
    ----------
    threads
        That compress, beside the caller's; with 1 the caller's own does. `Codec.close` ends them.
    about
        Attributes of the root of every file: how its values were made of counts, where they are not counts.

    Raises
    ------
    ConfigError
        As `check_codec`.
    """
    check_codec(format_name, codec, level)
    if format_name == "h5":
        from ingest.encode.h5 import H5Codec

        return H5Codec(codec, level, threads=threads, about=about)
    from ingest.encode.h5ad import H5adCodec

    return H5adCodec(codec, level, threads=threads, about=about)
