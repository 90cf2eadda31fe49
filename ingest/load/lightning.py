"""Cells for Lightning's Trainer: one configuration, and a data module that opens, divides and delivers.

::

    data_module = create_vae_dataloaders(DatasetConfig(data_path="lung", batch_size=256))
    trainer.fit(model, data_module)

Both of Lightning's packages will do, ``lightning`` and ``pytorch_lightning``: whichever is imported already, so that
the module is of the Trainer's own kind. Without either, the data module is a plain class with the same methods.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ingest.errors import ConfigError
from ingest.grammar import did_you_mean
from ingest.load.choose import choose_cells
from ingest.load.dataset import ChunkedCells, open_chunks
from ingest.load.files import ReadSettings
from ingest.load.hvgs import chosen_hvgs
from ingest.load.split import Part, Split, SplitRule, split
from ingest.load.torch.create import create_dataloader

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ingest.genes import Genes
    from ingest.load.stream import Transform
    from ingest.load.torch.loader import CellLoader

__all__ = ["ChunkedDataModule", "DatasetConfig", "create_vae_dataloaders"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_OF_OPENING = ("align", *(setting.name for setting in fields(ReadSettings)))
_OF_TRAINING = ("balance", "weights", "epoch_cells", "drop_last")
"""Cells to validate with come once each, all of them."""


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """What is trained with, and how it is delivered.

    Raises
    ------
    ConfigError
        ``bad-config``: both `genes` and `n_hvgs`.
    """

    data_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    """What `run` has written: a folder, an ``s3://`` or ``gs://`` prefix, or several."""
    batch_size: int = 256
    """Cells a batch."""
    chunk_cache_size: int | None = None
    """Inflated chunks kept in memory; see `create_dataloader`. None: what is worth it."""
    max_chunks_in_memory: int | None = None
    """The same: the smaller of the two counts."""
    include_srx_accessions: Sequence[str] | None = None
    """Only cells of these samples."""
    where: str | None = None
    """Only cells that match a filter such as ``tissue == 'lung'``."""
    n_hvgs: int | None = None
    """The first so many highly variable genes that `hvg` has chosen."""
    genes: Any = None
    """Ids or columns; None: all genes."""
    transform: Transform | None = None
    """What is done with counts; see `ingest.load.transform`."""
    form: str = "dense"
    """``dense``, ``csr`` or ``ragged``."""
    obs: Sequence[str] = ()
    """Columns that come with every batch."""
    split: SplitRule = field(default_factory=SplitRule)
    """How cells are divided into train, val and test."""
    seed: int = 0
    """Of the order."""
    num_workers: int = 0
    """Processes that read; 0: threads."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else `create_dataloader` takes: window_cells, balance, pin_memory, endpoint_url, …."""

    def __post_init__(self) -> None:
        if self.genes is not None and self.n_hvgs is not None:
            raise ConfigError("genes and n_hvgs both say which genes: give one", kind="bad-config")


class _WithoutLightning:
    """Stands in for Lightning's data module."""

    @property
    def trainer(self) -> NoReturn:
        """There is none without Lightning."""
        raise ImportError("a Trainer needs Lightning: pip install 'cell-ingest[lightning]'", name="lightning")


def _base() -> Any:
    """Return the data module of the Lightning that is in use, or of the first that is installed."""
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(package).LightningDataModule
        except ModuleNotFoundError as error:
            if error.name not in (package, package.partition(".")[0]):
                raise
    return _WithoutLightning


class ChunkedDataModule(_base()):  # type: ignore[misc]  # one of three classes, known when this is imported
    """Train, validate and test from chunks; batches are ``(X, metadata)``.

    Every epoch of the Trainer has an order of its own, also where ``limit_train_batches`` ends it early. A checkpoint
    holds the place in the epoch, and training goes on from it with the next cell.

    Parameters
    ----------
    config
        All of it; or its fields by name.

    Raises
    ------
    ConfigError
        There is no such field; and when the data are opened, as `open_chunks` and `create_dataloader`.
    """

    def __init__(self, config: DatasetConfig | None = None, **named: Any) -> None:
        super().__init__()
        self.config = _configured(config, named)
        self._train: _TrainBatches | None = None
        self._state: Mapping[str, Any] | None = None

    @cached_property
    def cells(self) -> ChunkedCells:
        """The opened datasets."""
        settings = {name: value for name, value in self.config.options.items() if name in _OF_OPENING}
        return open_chunks(self.config.data_path, **settings)

    @cached_property
    def genes(self) -> Genes:
        """The genes of a batch, in order: what a model is made for."""
        return self.cells.gene_columns(self._wanted)[0]

    @property
    def n_genes(self) -> int:
        """Columns of a batch."""
        return len(self.genes)

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """What codes in the metadata stand for, by column."""
        return self.loader("train").categories

    @cached_property
    def parts(self) -> Split:
        """The part of every cell of the datasets, selected or not."""
        return split(self.cells, self.config.split)

    def loader(self, part: Part | None) -> CellLoader:
        """Return a new loader of a part of the selected cells, shuffled for training; None: of all of them, in order.

        Raises
        ------
        EmptySelectionError
            The part has no cells.
        """
        chosen = self._selected if part is None else self.parts.rows(part, self._selected)
        config = self.config
        options = {name: value for name, value in config.options.items() if name not in _OF_OPENING}
        if part != "train":
            options = {name: value for name, value in options.items() if name not in _OF_TRAINING}
        return create_dataloader(
            self.cells,
            config.batch_size,
            shuffle=part == "train",
            seed=config.seed,
            rows=chosen,
            genes=self._wanted,
            transform=config.transform,
            form=config.form,
            obs=config.obs,
            num_workers=config.num_workers,
            chunk_cache_size=config.chunk_cache_size,
            max_chunks_in_memory=config.max_chunks_in_memory,
            **options,
        )

    def prepare_data(self) -> None:
        """Do nothing: `python -m ingest run` has done it."""

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets and divide the cells; a name that is wrong is found here."""
        del stage  # all need the same
        _ = self.parts, self.genes

    def train_dataloader(self) -> _TrainBatches:
        """Return the loader of the cells to train with."""
        self._train = _TrainBatches(self.loader("train"), self._current_epoch)
        if self._state is not None:
            self._train.load_state_dict(self._state)
            self._state = None
        return self._train

    def val_dataloader(self) -> _Batches | list[_Batches]:
        """Return the loader of the cells to validate with, in order; none where they have no share."""
        return _Batches(self.loader("val")) if self.config.split.val else []

    def test_dataloader(self) -> _Batches | list[_Batches]:
        """Return the loader of the cells to test with, in order; none where they have no share."""
        return _Batches(self.loader("test")) if self.config.split.test else []

    def predict_dataloader(self) -> _Batches:
        """Return a loader of all selected cells, in order."""
        return _Batches(self.loader(None))

    def teardown(self, stage: str | None = None) -> None:
        """Let go of files and threads; what is used again opens them again."""
        del stage
        self.cells.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch; empty before training."""
        return {} if self._train is None else {"train": self._train.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there with the next training loader.

        Raises
        ------
        ConfigError
            When that is made: the state is of another order of cells.
        """
        self._state = state_dict.get("train")

    @cached_property
    def _wanted(self) -> Any:
        n_hvgs = self.config.n_hvgs
        return self.config.genes if n_hvgs is None else chosen_hvgs(self.cells, n_hvgs)

    @cached_property
    def _selected(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        config = self.config
        chosen = choose_cells(self.cells, where=config.where, include_srx_accessions=config.include_srx_accessions)
        return np.arange(self.cells.n_cells) if chosen is None else chosen

    def _current_epoch(self) -> int | None:
        trainer = None if isinstance(self, _WithoutLightning) else self.trainer
        return None if trainer is None else int(trainer.current_epoch)


class _Batches:
    """A loader as a Trainer takes it: no attribute that it would look into as if it were a torch DataLoader's."""

    def __init__(self, loader: CellLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        yield from self._loader


class _TrainBatches(_Batches):
    """Batches to train with, whose epochs are the Trainer's.

    A Trainer takes as many batches as there are, or fewer, and never asks for one more, so that a loader that counts
    its own epochs would deliver the first one again and again.
    """

    def __init__(self, loader: CellLoader, epoch: Callable[[], int | None]) -> None:
        super().__init__(loader)
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        epoch = self._epoch()
        if epoch is not None:
            self._loader.set_epoch(epoch)
        yield from self._loader

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loader.load_state_dict(state)


def create_vae_dataloaders(config: DatasetConfig) -> ChunkedDataModule:
    """Return the data module of `config`, opened: what ``trainer.fit(model, data_module)`` takes.

    Raises
    ------
    ConfigError
        There is no dataset, or it lacks what is asked for.
    """
    module = ChunkedDataModule(config)
    module.setup()
    return module


def _configured(config: DatasetConfig | None, named: Mapping[str, Any]) -> DatasetConfig:
    known = [known.name for known in fields(DatasetConfig)]
    unknown = next((name for name in named if name not in known), None)
    if unknown is not None:
        raise ConfigError(f"no field {unknown!r} in DatasetConfig{did_you_mean(unknown, known)}", kind="bad-config")
    if config is not None and named:
        raise ConfigError("a whole config and single fields of it: give one", kind="bad-config")
    if config is None and "data_path" not in named:
        raise ConfigError("no data_path: which dataset is meant?", kind="bad-config")
    return config or DatasetConfig(**named)
