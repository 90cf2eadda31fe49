"""The data module: in a real Trainer, stopped and gone on with, and without Lightning."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytorch_lightning
import torch

from ingest.errors import ConfigError
from ingest.load.lightning import ChunkedDataModule, DatasetConfig, create_vae_dataloaders
from ingest.load.split import SplitRule
from ingest.load.transform import BinnedTokens, NormalizeLog1p
from ingest.testing.training import make_training_dataset

if TYPE_CHECKING:
    from pathlib import Path

# Lightning on its own dependencies, and its advice on how many workers a DataLoader might have.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

RULE = SplitRule(val=0.1, test=0.2, seed=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return make_training_dataset(tmp_path_factory.mktemp("lightning"))


class Watching(pytorch_lightning.LightningModule):
    """A linear model that remembers what it was given."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(n_genes, 1)
        self.seen: list[tuple[int, tuple[str, ...]]] = []
        self.validated: list[str] = []
        self.tested: list[str] = []

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        counts, metadata = batch
        self.seen.append((self.current_epoch, tuple(metadata["cell_id"])))
        return self.layer(counts).pow(2).mean()

    def validation_step(self, batch: Any, _index: int) -> None:
        self.validated += batch[1]["cell_id"]

    def test_step(self, batch: Any) -> None:
        self.tested += batch[1]["cell_id"]

    def predict_step(self, batch: Any, _index: int) -> list[str]:
        return batch[1]["cell_id"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-6)


class StopAfter(pytorch_lightning.Callback):
    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def trainer_of(folder: Path, **options: Any) -> pytorch_lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "num_sanity_val_steps": 0, **options}
    return pytorch_lightning.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **options)


def module_of(dataset: str, **fields: Any) -> ChunkedDataModule:
    named = {"data_path": dataset, "batch_size": 64, "n_hvgs": 30, "split": RULE, **fields}
    return create_vae_dataloaders(DatasetConfig(**named))


def test_every_cell_of_its_part_once_an_epoch_in_an_order_of_its_own(dataset, tmp_path):
    module = module_of(dataset)
    assert isinstance(module, pytorch_lightning.LightningDataModule)
    assert module.n_genes == 30
    model = Watching(module.n_genes)
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(model, module)
    trainer.test(model, module, verbose=False)
    predicted = [name for batch in trainer.predict(model, module) for name in batch]
    ids = {part: module.cells.cell_ids(module.parts.rows(part)) for part in ("train", "val", "test")}
    epochs = [[name for epoch, names in model.seen if epoch == number for name in names] for number in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(ids["train"])
    assert epochs[0] != epochs[1]
    assert model.validated == ids["val"] * 2
    assert model.tested == ids["test"]
    assert predicted == module.cells.cell_ids(np.arange(600))


def test_epochs_that_end_early_are_not_the_same_again(dataset, tmp_path):
    model = Watching(30)
    trainer_of(tmp_path, max_epochs=3, limit_train_batches=2).fit(model, module_of(dataset))
    orders = [[names for epoch, names in model.seen if epoch == number] for number in range(3)]
    assert [len(order) for order in orders] == [2, 2, 2]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("steps", [3, 7, 9])
def test_a_checkpoint_in_mid_epoch_goes_on_with_the_next_cell(dataset, tmp_path, steps):
    """Seven batches an epoch: within the first, at its end, and within the second."""
    whole, first, second = Watching(30), Watching(30), Watching(30)
    trainer_of(tmp_path, max_epochs=2).fit(whole, module_of(dataset))
    assert len(whole.seen) == 14
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(SystemExit):
        trainer_of(tmp_path, max_epochs=2, callbacks=[StopAfter(steps, path)]).fit(first, module_of(dataset))
    trainer_of(tmp_path, max_epochs=2).fit(second, module_of(dataset), ckpt_path=path)
    assert first.seen + second.seen == whole.seen


def test_a_checkpoint_of_other_data_is_refused(dataset, tmp_path):
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(SystemExit):
        trainer_of(tmp_path, max_epochs=1, callbacks=[StopAfter(2, path)]).fit(Watching(30), module_of(dataset))
    with pytest.raises(ConfigError, match="the state is of another order of cells"):
        trainer_of(tmp_path, max_epochs=1).fit(Watching(30), module_of(dataset, batch_size=32), ckpt_path=path)


def test_batches_are_what_the_configuration_says(dataset):
    module = module_of(dataset, transform=BinnedTokens(9), obs=["donor_id"], options={"drop_last": True})
    tokens, metadata = next(iter(module.train_dataloader()))
    assert (tokens.dtype, tokens.shape) == (torch.int64, (64, 30))
    assert int(tokens.max()) < 9
    assert module.categories["donor_id"] == tuple(f"d{at}" for at in range(7))
    assert metadata["donor_id"].shape == (64,)
    assert len(module.train_dataloader()) < len(module_of(dataset).train_dataloader())
    assert sum(len(names["cell_id"]) for _, names in module.val_dataloader()) == len(module.parts.rows("val"))


def test_normalised_values_are_of_all_genes(dataset):
    """2,000 genes or 30: the value of a gene is the same."""
    some = module_of(dataset, transform=NormalizeLog1p()).loader(None)
    every = module_of(dataset, transform=NormalizeLog1p(), n_hvgs=None).loader(None)
    columns = [every.genes.position(gene) for gene in some.genes.ids]
    for (part, names), (whole, same) in zip(some, every, strict=True):
        assert names["cell_id"] == same["cell_id"]
        torch.testing.assert_close(part, whole[:, columns], rtol=1e-6, atol=0)


def test_samples_are_selected_and_donors_kept_apart(dataset):
    rule = SplitRule("donor", val=0.2, test=0.2)
    module = module_of(dataset, include_srx_accessions=["SRX1", "SRX3"], split=rule, obs=["donor_id", "SRX_accession"])
    donors = []
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        found = [metadata for _, metadata in loader]
        donors.append({code for metadata in found for code in metadata["donor_id"].tolist()})
        samples = {code for metadata in found for code in metadata["SRX_accession"].tolist()}
        assert {module.categories["SRX_accession"][code] for code in samples} == {"SRX1", "SRX3"}
    assert sorted(code for part in donors for code in part) == list(range(7))


def test_parts_without_a_share_have_no_loader(dataset):
    module = module_of(dataset, split=SplitRule(val=0, test=0))
    assert module.val_dataloader() == module.test_dataloader() == []
    assert sum(len(metadata["cell_id"]) for _, metadata in module.train_dataloader()) == 600


def test_fields_by_name_and_what_is_wrong_with_them(dataset):
    assert ChunkedDataModule(data_path=dataset, batch_size=32).config.batch_size == 32
    for fields, said in (
        ({"data_path": dataset, "bach_size": 3}, "no field 'bach_size' in DatasetConfig; did you mean 'batch_size'"),
        ({"config": DatasetConfig(dataset), "batch_size": 3}, "a whole config and single fields"),
        ({}, "no data_path"),
        ({"data_path": dataset, "genes": [1], "n_hvgs": 3}, "genes and n_hvgs both say"),
    ):
        with pytest.raises(ConfigError, match=said):
            ChunkedDataModule(**fields)
    with pytest.raises(ConfigError, match="has 120 highly variable genes, not 2,000"):
        module_of(dataset, n_hvgs=2000)


WITHOUT = """
import sys
for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
    sys.modules[name] = None
from ingest.load.lightning import ChunkedDataModule
module = ChunkedDataModule(data_path=sys.argv[1], batch_size=64)
module.setup("fit")
loader = module.train_dataloader()
epochs = [[batch[1]["cell_id"] for batch in loader] for _ in range(2)]
assert epochs[0] != epochs[1]
again = ChunkedDataModule(data_path=sys.argv[1], batch_size=64)
batches = iter(again.train_dataloader())
taken = [next(batches)[1]["cell_id"] for _ in range(3)]
last = ChunkedDataModule(data_path=sys.argv[1], batch_size=64)
last.load_state_dict(again.state_dict())
assert taken + [batch[1]["cell_id"] for batch in last.train_dataloader()] == epochs[0]
assert module.state_dict() and not ChunkedDataModule(data_path=sys.argv[1]).state_dict()
module.teardown("fit")
try:
    module.trainer
except ImportError as error:
    print(error)
"""


def test_without_lightning_it_is_a_plain_class(dataset):
    ended = subprocess.run([sys.executable, "-c", WITHOUT, dataset], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "a Trainer needs Lightning: pip install 'cell-ingest[lightning]'\n"
