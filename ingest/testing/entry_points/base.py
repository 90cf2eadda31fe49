"""What an entry point is, and what came of one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from ingest.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["EntryPoint", "Outcome", "attempt", "command", "digest_of"]


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """One way to open a file or a folder."""

    name: str
    read: Callable[[Path, Path], Any]
    """Called with the path and an empty folder for what is written; returns what was read."""
    promised: tuple[type[Exception], ...] = ()
    """Errors of Python's own that its documentation names, besides the project's."""
    proves: bool = False
    """Whether it refuses every file that is not, byte for byte, what was written."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt."""

    answer: str | None = None
    """Digest of what was read; None: it was refused."""
    kind: str | None = None
    """Of the typed error."""
    message: str = ""
    fault: str | None = None
    """What should not have happened: an error that nobody promised, or a message of several lines."""


def attempt(entry: EntryPoint, path: Path) -> Outcome:
    """Open `path` and say what came of it; nothing of it stays behind."""
    scratch = Path(tempfile.mkdtemp(prefix="entry-"))
    try:
        with _silence():
            return Outcome(answer=digest_of(entry.read(path, scratch)))
    except IngestError as error:
        lines = "a message of several lines" if "\n" in str(error) else None
        return Outcome(kind=error.kind, message=str(error), fault=lines)
    except click.UsageError as error:  # which the command line says in one line, exit code 2
        return Outcome(kind="usage", message=error.format_message())
    except entry.promised as error:
        return Outcome(kind=type(error).__name__, message=str(error))
    except Exception as error:  # noqa: BLE001 # is what is looked for
        return Outcome(message=str(error), fault=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def command(*words: str) -> str:
    """Run a command of the command line in this process, and return what it printed; errors come as they are.

    Raises
    ------
    IngestError
        As the command does.
    """
    from ingest.cli.main import cli

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(list(words), prog_name="python -m ingest", standalone_mode=False)
    return out.getvalue()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        yield


def digest_of(value: Any) -> str:
    """Return 16 hex digits of whatever was read: arrays, tables and matrices by their content."""
    digest = _Digest()
    digest.add(value)
    return str(digest.state.hexdigest()[:16])


@dataclass(slots=True)
class _Digest:
    state: Any = field(default_factory=hashlib.sha256)

    def add(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
            self._text(repr(value.tolist()) if isinstance(value, pd.Index) else repr(value.to_dict()))
        elif sparse.issparse(value):
            matrix: Any = value
            whole = matrix.tocsr()
            self.add((whole.shape, whole.indptr, whole.indices, whole.data))
        elif isinstance(value, pa.Table | pa.RecordBatch | pa.Array | pa.ChunkedArray):
            self._text(repr(value.to_pylist()))
        elif isinstance(value, dict):
            self.add(sorted(value.items(), key=repr))
        elif isinstance(value, list | tuple | set | frozenset):
            self._text(f"{type(value).__name__}{len(value)}")
            for part in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
                self.add(part)
        else:
            self._text(repr(value))

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        if value.dtype.hasobject:
            self.add(value.tolist())
        else:
            self._text(f"{value.dtype}{value.shape}")
            self.state.update(np.ascontiguousarray(value).tobytes())

    def _text(self, value: str) -> None:
        self.state.update(value.encode("utf-8", "surrogatepass"))
