"""A chunk that is damaged or gone is named, and no wrong count is delivered where the codec has a checksum."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from ingest.errors import ConfigError, CorruptError, IncompleteError
from ingest.finish import finish
from ingest.load.dataset import open_chunks
from ingest.load.torch.create import create_dataloader
from ingest.load.torch.datasets import ScRNADataset, ShuffledCells
from ingest.repairing import repair_dataset
from ingest.settings import WorkSettings
from ingest.testing.damage import flip_bit
from ingest.testing.datasets import SilentObserver, open_serial_pool
from ingest.testing.shelf import small_blocks

N = 106
CHUNK = 2
"""The damaged one: cells 38 to 56."""
MINE = slice(38, 57)


def dense(counts):
    found = np.zeros((counts.n_cells, counts.n_genes))
    for row in range(counts.n_cells):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        found[row, counts.indices[part]] = counts.data[part]
    return found


def check_named(error, dest, number=CHUNK, kind=None):
    assert kind in (None, error.kind)
    assert f"chunk_{number:06d}" in str(error)
    assert "\n" not in str(error)
    assert str(dest.path) in str(error)
    assert "repair" in error.hint
    assert error.chunk == number


def stored(dest, number=CHUNK):
    """Return the arrays of a chunk and the bytes of their blocks: name -> [(offset, size)]."""
    table = pa.ipc.open_file(dest.path / "chunk_offsets.feather").read_all().to_pandas()
    table = table[table.chunk == number]
    return {
        name: list(zip(part.offset, part["size"], strict=True))
        for name, part in table.groupby("dataset", observed=True)
    }


@pytest.mark.parametrize(
    "kind", ["float32-deflate", "h5-deflate", "float32-lz4", "float32-zstd", "float32-none", "h5-lz4", "h5-none"]
)
def test_every_block_flipped(shelf, damageable, kind):
    """Bit by bit, at begin, middle and end of every block: an error that names the chunk, or the right counts.

    Without a checksum a flipped count stays unseen; gene numbers beyond the genes and rows of another length never do.
    """
    dest = damageable(kind)
    whole = shelf.plain(kind).matrix.toarray()
    path = dest.chunk(CHUNK)
    good = path.read_bytes()
    unseen = 0
    for spans in stored(dest).values():
        step = max(1, len(spans) // 3)
        for offset, size in spans[::step]:
            for at in {offset, offset + size // 2, offset + size - 1}:
                flip_bit(path, at=at)
                with open_chunks(dest.path, threads=1) as cells:
                    np.testing.assert_array_equal(dense(cells.counts(np.r_[:38, 57:N])), whole[np.r_[:38, 57:N]])
                    try:
                        counts = cells.counts(np.arange(N))
                    except CorruptError as error:
                        check_named(error, dest)
                    else:
                        assert (counts.indices >= 0).all()
                        assert (counts.indices < counts.n_genes).all()
                        unseen += not np.array_equal(dense(counts), whole)
                path.write_bytes(good)
    if "deflate" in kind:
        assert unseen == 0


@pytest.mark.parametrize("kind", ["float32-deflate", "h5-deflate", "float32-none"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "another chunk"])
def test_a_file_that_is_not_what_it_was(shelf, damageable, kind, damage):
    dest = damageable(kind)
    path = dest.chunk(CHUNK)
    if damage == "missing":
        path.unlink()
    elif damage == "another chunk":
        shutil.copy(dest.chunk(1), path)
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else path.stat().st_size // 8])
    whole = shelf.plain(kind).matrix.toarray()
    with open_chunks(dest.path, threads=2) as cells:
        np.testing.assert_array_equal(dense(cells.counts(range(38))), whole[:38])
        try:
            counts = cells.counts(range(N))
        except CorruptError as error:
            check_named(error, dest, kind="chunk-missing" if damage == "missing" else "chunk-damaged")
        else:
            assert damage == "another chunk"
            assert kind == "float32-none"
            assert counts.nnz
        np.testing.assert_array_equal(dense(cells.counts(range(57, N))), whole[57:])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_through_a_loader(damageable, workers, damage):
    """Of the same type, with the same words, from a worker process; batches before it are delivered."""
    dest = damageable()
    if damage == "missing":
        dest.chunk(CHUNK).unlink()
    else:
        flip_bit(dest.chunk(CHUNK), at=stored(dest)["X/data"][0][0] + 9)
    loader = create_dataloader(dest.path, 10, shuffle=False, window_cells=10, block_cells=1, num_workers=workers)
    batches = iter(loader)
    assert [len(next(batches)[0]) for _ in range(3)] == [10, 10, 10]
    with pytest.raises(CorruptError, match=f"chunk_{CHUNK:06d}") as raised:
        next(batches)
    check_named(raised.value, dest)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 3)
    loader.close()


@pytest.mark.parametrize("kind", ["map", "stream"])
def test_through_torchs_own_workers(damageable, kind):
    """torch makes the traceback the message: the type and the chunk's name are left."""
    dest = damageable()
    dest.chunk(CHUNK).unlink()
    dataset = ScRNADataset(dest.path) if kind == "map" else ShuffledCells(dest.path, 10)
    loader = DataLoader(dataset, batch_size=10 if kind == "map" else None, num_workers=1)
    with pytest.raises(CorruptError, match=rf"chunk_{CHUNK:06d}.h5ad is missing"):
        list(loader)


def test_of_several_the_first_is_named(damageable):
    dest = damageable()
    for number in (4, 2, 3):
        flip_bit(dest.chunk(number), at=stored(dest, number)["X/data"][0][0] + 9)
    for threads in (1, 4):
        with open_chunks(dest.path, threads=threads) as cells, pytest.raises(CorruptError, match="chunk_000002"):
            cells.counts(range(N))


def test_a_reader_goes_on_after_an_error(shelf, damageable):
    dest = damageable()
    dest.chunk(CHUNK).rename(dest.path / "away")
    cells = open_chunks(dest.path, threads=3)
    for _ in range(3):
        with pytest.raises(CorruptError, match="missing"):
            cells.counts(range(N))
    (dest.path / "away").rename(dest.chunk(CHUNK))
    np.testing.assert_array_equal(dense(cells.counts(range(N))), shelf.plain("float32-deflate").matrix.toarray())


def test_after_repair_all_is_well(shelf, damageable):
    dest = damageable()
    flip_bit(dest.chunk(CHUNK), at=stored(dest)["X/data"][0][0] + 9)
    dest.chunk(4).unlink()
    cells = open_chunks(dest.path)
    with pytest.raises(CorruptError):
        cells.counts(range(N))
    with small_blocks():
        report = repair_dataset(dest.open(), None, WorkSettings(workers=1), open_serial_pool, SilentObserver())
    assert report.exit_code == 0
    np.testing.assert_array_equal(dense(cells.counts(range(N))), shelf.plain("float32-deflate").matrix.toarray())


@pytest.mark.parametrize("kind", ["float32-deflate", "h5-deflate"])
def test_names_of_a_damaged_chunk(damageable, kind):
    dest = damageable(kind)
    dest.chunk(CHUNK).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(dest.chunk(CHUNK).stat().st_size - 8))
    cells = open_chunks(dest.path)
    assert len(cells.cell_ids(range(38))) == 38
    with pytest.raises(CorruptError) as raised:
        cells.cell_ids([0, 40])
    check_named(raised.value, dest)
    with pytest.raises(CorruptError):
        cells.find(["no such cell"])


# Summaries


SUMMARIES = [
    "chunk_index.json",
    "gene_list.json",
    "processing_config.json",
    "chunk_offsets.feather",
    "metadata/cells.feather",
    "metadata/presence.npz",
]


def use(path, **options):
    """Touch everything that an opened dataset reads."""
    with open_chunks(path, **options) as cells:
        cells.measured()
        cells.cell_ids([0, N - 1])
        cells.where("age > 3")
        return cells.counts(range(cells.n_cells))


@pytest.mark.parametrize("name", SUMMARIES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "zeros", "text"])
def test_a_damaged_summary_is_named(damageable, name, damage):
    path = (dest := damageable()).path / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": data[: len(data) // 2], "zeros": bytes(len(data)), "text": b'"a text"'}[damage]
        )
    with pytest.raises((CorruptError, ConfigError), match=name) as raised:
        use(dest.path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["metadata/presence.npz", "metadata/cells.feather", "chunk_offsets.feather"])
def test_a_bit_of_a_summary(shelf, damageable, name):
    """Wherever it is flipped: an error of ours, or the right counts."""
    path = (dest := damageable()).path / name
    good = path.read_bytes()
    whole = shelf.plain("float32-deflate").matrix.toarray()
    for at in range(0, len(good), max(1, len(good) // 40)):
        flip_bit(path, at=at)
        try:
            counts = use(dest.path)
        except (CorruptError, ConfigError) as error:
            assert "\n" not in str(error)  # noqa: PT017 # either is right
        else:
            np.testing.assert_array_equal(dense(counts), whole)
        path.write_bytes(good)


def test_a_table_of_other_cells(damageable):
    """Metadata would be those of other cells."""
    dest = damageable()
    path = dest.path / "metadata" / "cells.feather"
    table = pa.ipc.open_file(path).read_all()
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table.slice(0, 100))
    with open_chunks(dest.path) as cells, pytest.raises(CorruptError, match=r"cells.feather.*100.*106"):
        cells.where("age > 3")


def test_a_newer_format(damageable):
    dest = damageable()
    path = dest.path / "chunk_index.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(ConfigError, match="has format 99") as raised:
        open_chunks(dest.path)
    assert "upgrade" in raised.value.hint


# Incomplete


@pytest.fixture
def incomplete(damageable):
    """Leave chunks 1 and 4 undone."""
    dest = damageable()
    for number in (1, 4):
        dest.chunk(number).unlink()
        dest.receipt(number).unlink()
    (dest.path / "_SUCCESS.json").unlink()
    finish(dest.open())
    return dest


def test_an_incomplete_dataset(incomplete, plain):
    with pytest.raises(IncompleteError, match="4 of 6 chunks are there") as raised:
        open_chunks(incomplete.path)
    assert "allow_incomplete=True" in raised.value.hint
    rows = [*range(19), *range(38, 76), *range(95, N)]
    with open_chunks(incomplete.path, allow_incomplete=True) as cells:
        assert cells.n_cells == len(rows)
        np.testing.assert_array_equal(dense(cells.counts(range(len(rows)))), plain.matrix[rows].toarray())
        names = [plain.names[row] for row in rows]
        assert cells.cell_ids(range(len(rows))) == names
        assert cells.find(names[::-1]).tolist() == list(range(len(rows)))[::-1]
        assert cells.column("age", range(len(rows))).values.tolist() == plain.obs.age.iloc[rows].tolist()
        assert [cells.locate(at)[1] for at in (0, 18, 19, 56, 57)] == [0, 0, 2, 3, 5]
        loader = create_dataloader(cells, 9, obs=["age"])
        for expression, metadata in loader:
            mine = plain.obs.index.get_indexer(metadata["cell_id"])
            np.testing.assert_array_equal(expression.numpy(), plain.matrix[mine].toarray())
            assert metadata["age"].tolist() == plain.obs.age.iloc[mine].tolist()


def test_nothing_is_there_yet(damageable):
    dest = damageable()
    for number in range(6):
        dest.chunk(number).unlink()
        dest.receipt(number).unlink()
    (dest.path / "_SUCCESS.json").unlink()
    finish(dest.open())
    with open_chunks(dest.path, allow_incomplete=True) as cells:
        assert cells.n_cells == 0
        with pytest.raises(ConfigError, match="no cell"):
            create_dataloader(cells)
