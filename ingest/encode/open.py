"""Choose the codec that a plan names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from ingest.encode.h5ad import H5adCodec

__all__ = ["CODECS", "FORMATS", "check_codec", "open_codec"]

FORMATS = ("h5ad",)
CODECS = ("deflate", "zstd", "lz4", "none")


def check_codec(format_name: str, codec: str, level: int) -> None:
    """Refuse chunks that cannot be written, without importing what writes them.

    Raises
    ------
    ConfigError
        There is no such format, codec or level.
    """
    if format_name not in FORMATS:
        raise ConfigError(f"--format {format_name}: chunks are written as {', '.join(FORMATS)}", kind="bad-format")
    if codec not in CODECS:
        raise ConfigError(f"--codec {codec}: there is {', '.join(CODECS)}", kind="bad-codec")
    if not 0 <= level <= 9:
        raise ConfigError(f"--level {level}: levels go from 0 to 9", kind="bad-level")


def open_codec(format_name: str, codec: str, level: int, *, threads: int = 1) -> H5adCodec:
    """Return the codec for chunks of `format_name`, compressed by `codec` at `level`.

    Parameters
    ----------
    threads
        That compress, beside the caller's; with 1 the caller's own does. `Codec.close` ends them.

    Raises
    ------
    ConfigError
        As `check_codec`.
    """
    check_codec(format_name, codec, level)
    from ingest.encode.h5ad import H5adCodec

    return H5adCodec(codec, level, threads=threads)
