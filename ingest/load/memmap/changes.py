"""An archive changed where it is, or in a copy: other types, other archives appended."""

from __future__ import annotations

import errno
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.load.memmap.archive import ArchiveSpec
from ingest.load.memmap.attempt import Attempt
from ingest.load.memmap.concat import concatenated_features, concatenated_spec
from ingest.load.memmap.dtypes import check_data_dtype
from ingest.load.memmap.names import FileNames
from ingest.load.memmap.revise import Piece, revise

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy as np

    from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex

__all__ = ["COPY_ENTRIES", "Changeable"]

COPY_ENTRIES = 10 * 1_024 * 1_024
"""Entries copied at once."""


class Changeable(ABC):
    """What changes an archive; whoever inherits it has opened one."""

    data_path: str | os.PathLike[str]
    metadata: dict[str, Any]
    data: np.memmap[Any, Any]
    col_index: np.memmap[Any, Any]
    row_index: np.memmap[Any, Any]
    _home: Path
    _var_feature_index: VariableFeatureIndex
    _obs_feature_index: ObservedFeatureIndex

    @property
    @abstractmethod
    def _spec(self) -> ArchiveSpec:
        """Sizes and types of the arrays."""

    @abstractmethod
    def load(self, stored_path: str | os.PathLike[str]) -> None:
        """Be the archive at `stored_path`."""

    @abstractmethod
    def _open(self, stored_path: str | os.PathLike[str]) -> None:
        """Map what is at `stored_path`."""

    @abstractmethod
    def _map_neighbors(self) -> bool:
        """Map neighbours where they are asked for."""

    @abstractmethod
    def _check_writable(self) -> None:
        """Refuse what was opened for reading."""

    def cast_data_to_dtype(self, dtype: str) -> None:
        """Store values as another type, in place, as numpy casts them: what does not fit is lost.

        Raises
        ------
        ValueError
            There is no such type.
        """
        check_data_dtype(dtype)
        self._check_writable()
        old = self._spec
        self._revise(ArchiveSpec(old.n_rows, old.n_entries, dtype, old.columns, old.rows), (), COPY_ENTRIES)

    def _append(
        self,
        others: Sequence[Changeable],
        piece_entries: int,
        output_path: str | os.PathLike[str] | None,
        *,
        destroy_on_copy: bool,
    ) -> None:
        """Do what ``concat`` says."""
        if destroy_on_copy and any(other._home.samefile(self._home) for other in others):
            raise ValueError(f"{self.data_path} is appended to itself, which destroy_on_copy would destroy")
        pieces = [Piece(other._home, other._spec) for other in others]
        new = concatenated_spec(Piece(self._home, self._spec), pieces)
        if output_path is not None and Path(output_path).exists():
            raise FileExistsError(f"Output directory already exists: {output_path}")
        if output_path is None or destroy_on_copy:
            self._check_writable()
            self._revise(new, others, piece_entries)
        if output_path is not None and destroy_on_copy:
            self._move(Path(output_path))
        elif output_path is not None:
            self._concat_at(output_path, new, others, piece_entries)
        if destroy_on_copy:
            for piece in pieces:
                for name in (FileNames.DATA, FileNames.COLPTR, FileNames.ROWPTR):
                    (piece.folder / name.value).unlink(missing_ok=True)

    def _revise(self, new: ArchiveSpec, others: Sequence[Changeable], piece_entries: int) -> None:
        """Change the archive where it is."""
        owners = [self, *others]
        features = concatenated_features([(one._var_feature_index, one._obs_feature_index) for one in owners])
        metadata = {**self.metadata, "num_rows": features[0].number_of_rows()}
        pieces = [Piece(other._home, other._spec) for other in others]
        for array in (each for one in owners for each in (one.data, one.row_index, one.col_index)):
            array.flush()
        revise(self._home, self._spec, new, pieces, features, metadata, piece_entries=piece_entries)
        path = self.data_path
        self._open(self._home)
        self.data_path = path
        self._map_neighbors()

    def _move(self, place: Path) -> None:
        """Have the archive at another place."""
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._home.rename(place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            staging = self._copied(place)
            staging.commit()
            shutil.rmtree(self._home)
        self.load(place)

    def _copied(self, place: str | os.PathLike[str]) -> Attempt:
        staging = Attempt(place)
        try:
            shutil.copytree(self._home, staging.make(), dirs_exist_ok=True)
        except BaseException:
            staging.discard()
            raise
        return staging

    def _concat_at(
        self,
        output_path: str | os.PathLike[str],
        new: ArchiveSpec,
        others: Sequence[Changeable],
        piece_entries: int,
    ) -> None:
        """Do it in a copy, which then is called `output_path`."""
        staging, before, home = self._copied(output_path), self.data_path, self._home
        try:
            self._open(staging.folder)
            self._revise(new, others, piece_entries)
            staging.commit()
        except BaseException:
            staging.discard()
            self._open(home)
            self.data_path = before
            self._map_neighbors()
            raise
        self.load(output_path)
