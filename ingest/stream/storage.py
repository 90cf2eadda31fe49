"""Which file is meant, how its X lies, and the kernel's copy of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from ingest.errors import ConfigError, NoFileError, SourceChangedError, SourceError

if TYPE_CHECKING:
    from ingest.fetch.h5ad_open import OpenH5ad

__all__ = [
    "address_of_data",
    "changed_meanwhile",
    "drop_file_cache",
    "get_matrix_storage_format",
    "is_dense_storage",
    "local_or_url",
    "open_data",
    "resolve_data_path",
    "stem_of",
]

StorageFormat = Literal["dense", "csr", "csc"]

_ENCODINGS: dict[object, StorageFormat] = {
    "csr_matrix": "csr",
    "csc_matrix": "csc",
    "array": "dense",
    # anndata 0.6
    "csr": "csr",
    "csc": "csc",
}


def resolve_data_path(data: Any, *, require_exists: bool = True) -> Path:
    """Return the local path of `data`: a path, a backed anndata, or this package's handle.

    Of a backed anndata it is the file that counts: what was changed in its obs, var or uns in memory is not in it.

    Raises
    ------
    TypeError
        An AnnData in memory, a view of a backed one, or nothing that names a file.
    NoFileError
        A FileNotFoundError: there is no such file.
    ConfigError
        ``remote-file``: it lies on a server, where files are read, not written.
    """
    address = address_of_data(data)
    if "://" in address:
        raise ConfigError(
            f"{address}: a remote file; this wants one on a local disk",
            kind="remote-file",
            hint="copy it to a local disk first: remote files are only read",
            source=address,
        )
    path = Path(address)
    if require_exists and not path.is_file():
        raise _no_file(address)
    return path


def address_of_data(data: Any) -> str:
    """Return the local path or the URL of `data`, as text, without looking whether there is anything.

    Parameters
    ----------
    data
        A path or URL, a backed anndata, or anything with a ``filename`` or ``path``.

    Raises
    ------
    TypeError
        An AnnData in memory, a view of a backed one, or nothing that names a file.
    """
    if isinstance(data, str | os.PathLike):
        text = os.fspath(data)
        if isinstance(text, str):
            return _local(text)
        raise TypeError(f"a path of bytes, {text!r}; give it as text")
    for name in ("filename", "path"):
        found = getattr(data, name, None)
        if isinstance(found, str | os.PathLike):
            _refuse_view(data, found)
            return address_of_data(found)
    if hasattr(data, "obs") and hasattr(data, "var"):
        raise TypeError("this AnnData is in memory and names no file; write it with write_h5ad and give its path")
    raise TypeError(f"a {type(data).__name__} names no file; give a path, a backed AnnData or a handle of this package")


def local_or_url(data: Any) -> str:
    """Return the path of a local file that is there, or a URL, as text: of what is read and not written.

    Raises
    ------
    TypeError, NoFileError
        As of `resolve_data_path`.
    """
    address = address_of_data(data)
    return address if "://" in address else os.fspath(resolve_data_path(address))


def stem_of(address: str) -> str:
    """Return the name of a local or remote file without folder and ending."""
    return Path(unquote(urlsplit(address).path) if "://" in address else address).stem


def open_data(data: Any, *, version: str | None = None) -> OpenH5ad:
    """Open the file that `data` names, local or remote, for reading; every link and header in it is examined first.

    Parameters
    ----------
    version
        That it has to have, as an earlier opening found it (``OpenH5ad.source.version``); None: any.

    Raises
    ------
    TypeError
        As of `address_of_data`.
    NoFileError
        A FileNotFoundError: there is no such file.
    HostileFileError
        It breaks a rule of `ingest.fetch.h5ad_open`.
    SourceChangedError
        It has another version.
    ConfigError, CredentialsError, TransientError
        It cannot be reached.
    """
    from ingest.fetch.h5ad_open import open_h5ad

    address = address_of_data(data)
    try:
        opened = open_h5ad(address)
    except SourceError as error:
        if error.kind == "no-such-file":
            raise _no_file(address) from error
        raise
    if version not in (None, opened.source.version):
        opened.close()
        raise changed_meanwhile(address)
    return opened


def is_dense_storage(path: Any) -> bool:
    """Tell whether X is a dense array; False where there is no X. Only its header is read.

    Raises
    ------
    NoFileError, HostileFileError, ConfigError, TransientError
        As of `open_data`.
    """
    with open_data(path) as opened:
        return "X" in opened.file and _format(opened) == "dense"


def get_matrix_storage_format(path: Any) -> StorageFormat:
    """Return how X lies: ``dense``, ``csr`` or ``csc``; ``dense`` where there is no X. Only its header is read.

    Raises
    ------
    NoFileError, HostileFileError, ConfigError, TransientError
        As of `open_data`; ``not-h5ad`` where X is no matrix.
    """
    with open_data(path) as opened:
        return _format(opened) if "X" in opened.file else "dense"


def drop_file_cache(path: str | os.PathLike[str]) -> None:
    """Let the kernel forget what it holds of a file: in a job, that counts towards the memory limit.

    Nothing happens where the system has no such call (it is of Linux and its kin), or the file cannot be opened.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    except (OSError, ValueError):
        return
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return  # a pipe, a device: nothing of it is held
    finally:
        os.close(descriptor)


def _format(opened: OpenH5ad) -> StorageFormat:
    import h5py

    node = opened.get("X")
    if isinstance(node, h5py.Dataset):
        return "dense"
    if node is None:
        raise opened.error("X", "is no matrix", "not-h5ad")
    found = opened.attribute(node, "encoding-type")
    encoding = opened.attribute(node, "h5sparse_format") if found is None else found
    if not isinstance(encoding, str) or encoding not in _ENCODINGS:
        raise opened.error("X", f"is no matrix (encoding {encoding!r})", "not-h5ad")
    return _ENCODINGS[encoding]


def _local(text: str) -> str:
    if not text:
        raise TypeError("an empty path names no file")
    if text.startswith("file://"):
        return unquote(urlsplit(text).path)
    return os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111 # Path fails for unknown users


def changed_meanwhile(address: str | os.PathLike[str]) -> SourceChangedError:
    """Return the error for a file that is no longer the one that was read."""
    return SourceChangedError(
        f"{address}: the file was changed by something else meanwhile",
        hint="nothing was written; run it again",
        source=str(address),
    )


def _refuse_view(data: Any, filename: str | os.PathLike[str]) -> None:
    # anndata has a view say the name of the file that it is a part of.
    if getattr(data, "is_view", False):
        n_obs, n_vars = data.shape
        raise TypeError(
            f"a view, {n_obs:,} cells x {n_vars:,} genes, of {os.fspath(filename)}; make a file of it with"
            " write_filtered_subset, or an AnnData in memory with .to_memory()"
        )


def _no_file(address: str) -> NoFileError:
    return NoFileError(f"{address}: there is no such file", source=address)
