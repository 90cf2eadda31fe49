"""Folders of features: read when asked for, replaced as a whole or not at all, believed only as far as they agree."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bionemo.scdl.index import row_feature_index as theirs

from ingest.errors import ConfigError, ConflictError, CorruptError, IngestError
from ingest.load.memmap import feature_folder, feature_frames
from ingest.load.memmap.features import ObservedFeatureIndex, VariableFeatureIndex

TYPES = ["B", "T", None, "B", "NK", "T"]


def obs(n_blocks=2, value=0):
    index = ObservedFeatureIndex()
    for number in range(n_blocks):
        index.append_features({f"n{number}": np.arange(6) + value, "type": np.array(TYPES, object)}, f"{number}.h5ad")
    return index


def var(n_blocks=2):
    index = VariableFeatureIndex()
    for number in range(n_blocks):
        index.append_features(6, {"id": np.array([f"g{number}{gene}" for gene in range(4)])}, f"{number}.h5ad")
    return index


def rows_of(index):
    return [index.lookup(row) for row in range(index.number_of_rows())]


@pytest.fixture
def reads(monkeypatch):
    """Return what columns are read meanwhile."""
    found = []
    read = feature_frames.Frame.read

    def noted(self, name, *rows):
        found.append((self.path.name, name))
        return read(self, name, *rows)

    monkeypatch.setattr(feature_frames.Frame, "read", noted)
    return found


def test_only_what_is_asked_for_is_read_and_only_once(tmp_path, reads):
    obs().save(tmp_path / "obs")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    assert (len(index), index.number_of_rows(), index.column_dims()) == (2, 12, [2, 2])
    assert index.number_of_values() == [12, 12]
    assert reads == []
    assert index.lookup(7, ["type"]) == (["T"], "1.h5ad")
    assert index.lookup(8, ["type"]) == ([None], "1.h5ad")
    assert reads == [("dataframe_1.parquet", "type")]
    index.take([0, 7], ["type"])
    assert index.codes("type")[0] == ("B", "NK", "T")
    assert reads == [("dataframe_1.parquet", "type"), ("dataframe_0.parquet", "type")]
    index.read()
    assert len(reads) == 4
    rows_of(index)
    assert len(reads) == 4


def test_arrays_of_var_are_read_when_asked_for_and_are_then_the_same(tmp_path, reads):
    var().save(tmp_path / "var")
    index = VariableFeatureIndex.load(tmp_path / "var")
    assert index.column_dims() == [4, 4]
    assert index.number_vars_at_row(7) == 4
    assert reads == []
    (ids,), label = index.lookup(7)
    assert (ids.tolist(), label) == (["g10", "g11", "g12", "g13"], "1.h5ad")
    assert index.lookup(11)[0][0] is ids
    assert ids.flags.writeable
    assert reads == [("dataframe_1.parquet", "id")]


def test_arrays_are_not_read_to_see_that_others_differ(tmp_path, reads):
    var().save(tmp_path / "var")
    index = VariableFeatureIndex.load(tmp_path / "var")
    index.append_features(3, {"id": np.array(["g0"])})
    index.append_features(3, {"id": np.array(["g0"]), "more": np.array([1])})
    with pytest.raises(ValueError, match="more"):
        index.lookup(0, ["more"])
    assert index.column_dims() == [4, 4, 1, 1]
    assert reads == []


def test_texts_of_genes_are_one_for_all_blocks(tmp_path):
    index = VariableFeatureIndex()
    for number in range(3):
        index.append_features(2, {"id": np.array([f"gene {gene}" for gene in range(number, 9)], object)})
    index.append_table(2, pa.table({"id": [f"gene {gene}" for gene in range(3, 9)], "n": range(6)}))
    index.save(tmp_path / "var")
    for own in (index, VariableFeatureIndex.load(tmp_path / "var"), pickle.loads(pickle.dumps(index))):  # noqa: S301
        assert len({id(own.lookup(row)[0][0][-1]) for row in range(own.number_of_rows())}) == 1
        assert all(array.flags.writeable for array in own.lookup(7)[0])


def test_appending_to_what_was_loaded_reads_nothing(tmp_path, reads):
    obs().save(tmp_path / "obs")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    index.concat(ObservedFeatureIndex.load(tmp_path / "obs"))
    index.append_features({"n1": np.arange(3), "type": np.array(["A", "B", "C"])})
    assert (len(index), index.number_of_rows()) == (4, 27)
    assert reads == []


def test_what_was_loaded_is_sent_to_another_process_as_the_names_of_its_files(tmp_path):
    index = ObservedFeatureIndex()
    index.append_features({"x": np.random.default_rng(0).random(100_000)})
    index.save(tmp_path / "obs")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    wanted = index.lookup(7)
    sent = pickle.dumps(index)
    assert len(sent) < 10_000
    assert pickle.loads(sent).lookup(7) == wanted  # noqa: S301 # made here
    var().save(tmp_path / "var")
    genes = VariableFeatureIndex.load(tmp_path / "var")
    genes.lookup(0)
    again = pickle.loads(pickle.dumps(genes))  # noqa: S301
    assert again._blocks[0]._arrays == {}
    assert again.lookup(0)[0][0].tolist() == genes.lookup(0)[0][0].tolist()


@pytest.mark.parametrize("n_blocks", [0, 1, 9, 10, 11, 100])
def test_files_are_named_as_theirs(n_blocks, tmp_path):
    index, peer = obs(n_blocks), theirs.ObservedFeatureIndex()
    for block, label in zip(index._feature_arr, index._labels, strict=True):
        peer.append_features(dict(block), label)
    index.save(tmp_path / "ours")
    peer.save(str(tmp_path / "theirs"))
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    for name in names:
        if name.endswith(".npy"):
            assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert rows_of(ObservedFeatureIndex.load(tmp_path / "ours")) == rows_of(index)


def test_a_tenth_block_leaves_no_file_of_nine(tmp_path):
    index = obs(9)
    index.save(tmp_path / "obs")
    index.concat(obs(1, value=7))
    index.save(tmp_path / "obs")
    names = sorted(path.name for path in tmp_path.joinpath("obs").glob("*.parquet"))
    assert names == [f"dataframe_{number:02d}.parquet" for number in range(10)]
    assert rows_of(theirs.ObservedFeatureIndex.load(str(tmp_path / "obs"))) == rows_of(index)


def test_what_theirs_leaves_of_nine_beside_ten_is_not_read(tmp_path):
    peer = theirs.ObservedFeatureIndex()
    for number in range(10):
        peer.append_features({f"n{number}": np.arange(3)}, "x")
        if number >= 8:
            peer.save(str(tmp_path / "obs"))
    assert len(list(tmp_path.joinpath("obs").glob("*.parquet"))) == 19
    assert rows_of(ObservedFeatureIndex.load(tmp_path / "obs")) == rows_of(peer)


def test_saving_over_what_it_was_loaded_from(tmp_path, reads):
    obs(3).save(tmp_path / "obs")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    untouched = (tmp_path / "obs" / "dataframe_0.parquet").stat().st_ino
    index.append_features({"n2": np.array([0.5]), "type": np.array(["new"])})
    wanted = rows_of(obs(3))
    index.save(tmp_path / "obs")
    assert reads == []
    assert (tmp_path / "obs" / "dataframe_0.parquet").stat().st_ino == untouched
    index.save(tmp_path / "obs")
    assert rows_of(index) == [*wanted, ([0.5, "new"], "2.h5ad")]
    assert rows_of(theirs.ObservedFeatureIndex.load(str(tmp_path / "obs"))) == rows_of(index)
    genes = var()
    genes.save(tmp_path / "var")
    genes = VariableFeatureIndex.load(tmp_path / "var")
    genes.save(tmp_path / "var")
    shutil.rmtree(tmp_path / "obs")
    assert genes.lookup(7)[0][0].tolist() == ["g10", "g11", "g12", "g13"]


def test_parts_of_several_files_are_saved_as_one(tmp_path, reads):
    whole = ObservedFeatureIndex()
    for number in range(5):
        part = obs(1, value=number)
        part.save(tmp_path / f"{number}")
        whole.concat(ObservedFeatureIndex.load(tmp_path / f"{number}"))
    wanted = rows_of(ObservedFeatureIndex().concat(whole))
    reads.clear()
    saved = ObservedFeatureIndex()
    for number in range(5):
        saved.concat(ObservedFeatureIndex.load(tmp_path / f"{number}"))
    saved.save(tmp_path / "0")
    assert ("dataframe_0.parquet", "type") not in reads  # of texts the type is known
    for number in range(1, 5):
        shutil.rmtree(tmp_path / f"{number}")
    assert rows_of(ObservedFeatureIndex.load(tmp_path / "0")) == wanted


def test_row_groups_are_bounded_and_any_rows_are_found_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.load.memmap.feature_observed.ROWS_AT_ONCE", 10)
    monkeypatch.setattr(feature_frames, "ROWS_AT_ONCE", 10)
    one, more = ObservedFeatureIndex(), ObservedFeatureIndex()
    for number in range(7):
        texts = np.array([f"t{row % 5}" for row in range(number * 7)], object)
        one.append_features({"x": np.arange(number * 7) + number * 100, "t": texts})
    one.save(tmp_path / "one")
    file = pq.ParquetFile(tmp_path / "one" / "dataframe_0.parquet")
    assert max(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)) <= 10
    assert file.num_row_groups < 30
    wanted = rows_of(one)
    more.append_features({"x": np.array([0.5]), "t": np.array(["first"])})
    more.concat(ObservedFeatureIndex.load(tmp_path / "one"))
    more.save(tmp_path / "one")
    assert rows_of(more) == [([0.5, "first"], None), *wanted]
    again = ObservedFeatureIndex.load(tmp_path / "one")
    again.append_features({"x": np.array([1]), "t": np.array(["last"])})
    again.save(tmp_path / "one")
    again.concat(ObservedFeatureIndex.load(tmp_path / "one"))
    assert rows_of(again) == [([0.5, "first"], None), *wanted, ([1, "last"], None)] * 2


def test_many_short_parts_are_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_frames, "ROWS_AT_ONCE", 10)
    index = ObservedFeatureIndex()
    for number in range(100):
        index.append_features({"x": np.array([number])})
    index.save(tmp_path / "obs")
    assert pq.ParquetFile(tmp_path / "obs" / "dataframe_0.parquet").num_row_groups == 10
    assert [row[0] for row, _ in rows_of(ObservedFeatureIndex.load(tmp_path / "obs"))] == list(range(100))


def test_a_file_that_has_changed_is_not_mixed_with_what_was_read(tmp_path):
    obs(1).save(tmp_path / "obs")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    assert index.lookup(0, ["n0"]) == ([0], "0.h5ad")
    obs(1, value=5).save(tmp_path / "obs")
    with pytest.raises(CorruptError, match="is another one than when it was opened") as raised:
        index.lookup(0, ["type"])
    assert raised.value.hint == "open the archive again"
    shutil.rmtree(tmp_path / "obs")
    with pytest.raises(CorruptError, match="is no longer there"):
        index.lookup(0, ["type"])


class PowerCutError(BaseException):
    """Nothing more is done."""


STEPS = [("mkdir", Path), ("rename", Path), ("hardlink_to", Path), ("rmtree", shutil), ("save", np)]


def cut_at(monkeypatch, step):
    """Let the `step`-th thing done to the disk be the last that is not."""
    done = 0

    def counted(real):
        def do(*args, **kwargs):
            nonlocal done
            done += 1
            if done > step:
                raise PowerCutError
            return real(*args, **kwargs)

        return do

    for name, owner in STEPS:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(feature_folder, "sync_folder", counted(feature_folder.sync_folder))
    monkeypatch.setattr(feature_folder, "_swapped", counted(feature_folder._swapped))
    return lambda: done


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("before", ["nothing", "other", "itself"])
def test_cut_off_anywhere_there_is_the_old_or_the_new(tmp_path, exchange, before):
    new = rows_of(obs(2).concat(obs(1, value=50)))
    for step in range(100):
        folder = tmp_path / f"{step}"
        if before != "nothing":
            obs(2).save(folder / "obs")
        old = None if before == "nothing" else rows_of(obs(2))
        index = ObservedFeatureIndex.load(folder / "obs") if before == "itself" else obs(2)
        index.concat(obs(1, value=50))
        with pytest.MonkeyPatch.context() as monkeypatch:
            if not exchange:
                monkeypatch.setattr(feature_folder, "_swapped", lambda *_: False)
            done = cut_at(monkeypatch, step)
            try:
                index.save(folder / "obs")
            except PowerCutError:
                pass
            else:
                assert step == done() > 5
                break
        try:
            found = rows_of(ObservedFeatureIndex.load(folder / "obs"))
        except FileNotFoundError:
            found = None
        assert found in (old, new)
        if exchange and before != "nothing":
            assert (folder / "obs").exists()  # at any time
        # What is left behind is in nobody's way.
        obs(2, value=9).save(folder / "obs")
        assert rows_of(ObservedFeatureIndex.load(folder / "obs")) == rows_of(obs(2, value=9))
        assert [path.name for path in folder.iterdir()] == ["obs"]
    else:
        raise AssertionError("never ends")
    assert rows_of(ObservedFeatureIndex.load(folder / "obs")) == new


def test_two_folders_change_places_in_one_step(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if feature_folder._swapped(tmp_path / "one", tmp_path / "other"):
        assert (tmp_path / "one" / "other").exists()
        assert (tmp_path / "other" / "one").exists()
    with pytest.raises(FileNotFoundError):
        feature_folder._swapped(tmp_path / "one", tmp_path / "none")


def test_a_copy_where_there_are_no_links(tmp_path, monkeypatch):
    obs(1).save(tmp_path / "obs")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    again = ObservedFeatureIndex.load(tmp_path / "obs")

    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    index.save(tmp_path / "obs")
    assert rows_of(index) == rows_of(again) == rows_of(obs(1))


def test_all_of_it_is_on_the_disk_before_it_is_called_so(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    obs(1).save(tmp_path / "obs")
    files = {"dataframe_0.parquet", "cumulative_sum_index.npy", "labels.npy", "version.npy"}
    assert files <= set(synced[: synced.index("obs.partial") + 1])
    assert synced[-1] == tmp_path.name


def test_nothing_of_others_is_removed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"holds notes.txt, which is none of the features") as raised:
        obs().save(tmp_path)
    assert raised.value.kind == "not-features"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ConflictError, match="is a file"):
        obs().save(tmp_path / "notes.txt")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    obs(1).save(tmp_path / "obs")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_folder, "sync_folder", full)
    with pytest.raises(ConfigError, match="no space left") as raised:
        obs(2).save(tmp_path / "obs")
    assert raised.value.kind == "disk-full"
    assert rows_of(ObservedFeatureIndex.load(tmp_path / "obs")) == rows_of(obs(1))
    assert [path.name for path in tmp_path.iterdir()] == ["obs"]


def test_what_parquet_has_no_type_for_is_named(tmp_path):
    index = obs(1)
    index.append_features({"odd": np.array([1, "a"], object)})
    with pytest.raises(ConfigError, match="feature 'odd' cannot be saved") as raised:
        index.save(tmp_path / "obs")
    assert raised.value.kind == "feature-type"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "labels", [[None], ["a", None, "b.h5ad"], [None] * 40, ["é🧬"], ["a", None] * 20, ["x" * 300, None]]
)
def test_labels_of_theirs(labels, tmp_path):
    peer = theirs.VariableFeatureIndex()
    for number, label in enumerate(labels):
        peer.append_features(2, {"x": np.arange(number)}, label)
    peer.save(str(tmp_path / "theirs"))
    index = VariableFeatureIndex.load(tmp_path / "theirs")
    assert index._labels == labels
    assert {type(label) for label in index._labels} <= {str, type(None)}
    index.append_features(2, {"y": np.arange(3)}, None)  # theirs has an array here that cannot grow
    index.save(tmp_path / "ours")
    assert VariableFeatureIndex.load(tmp_path / "ours")._labels == [*labels, None]
    there = theirs.VariableFeatureIndex.load(str(tmp_path / "ours"))._labels
    assert there.tolist() == [*(label or "" for label in labels), ""]
    np.load(tmp_path / "ours" / "labels.npy", allow_pickle=False)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    "body",
    [
        np.array([Evil()], object),
        np.array([["a"]], object),
        np.array([1], object),
        np.array([b"a"], object),
        np.array([{"a"}], object),
        np.array(["a", "b"], object),
        b"\x80\x04Nr\xff\xff\xff\x7f.",
        b"\x80\x04NQ.",
        b"",
        b".",
        b"\x80\x04N.",
        b"\x80\x04(((.",
        b"\x80\x04K\x00K\x00b.",
        b"\x80\x04cos\nsystem\n.",
    ],
)
def test_labels_are_never_unpickled(body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    obs(1).save(tmp_path / "obs")
    path = tmp_path / "obs" / "labels.npy"
    np.save(path, np.array([None]))
    if isinstance(body, bytes):
        path.write_bytes(path.read_bytes()[:128] + body)
    else:
        np.save(path, body)
    with pytest.raises(
        CorruptError, match=r"labels.npy (is no list of texts|holds something else|has \d labels)"
    ) as raised:
        ObservedFeatureIndex.load(tmp_path / "obs")
    assert raised.value.kind == "scdl-features"
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("body", "opcode"), [(b"\x80\x04Nr\xff\xff\xff\x7f.", "LONG_BINPUT"), (b"\x80\x04NQ.", "BINPERSID")]
)
def test_a_pickle_with_anything_else_in_it_is_not_even_looked_at(body, opcode, tmp_path):
    # The first asks for 16 GiB to remember a None in.
    obs(1).save(tmp_path / "obs")
    path = tmp_path / "obs" / "labels.npy"
    np.save(path, np.array([None]))
    path.write_bytes(path.read_bytes()[:128] + body)
    with pytest.raises(CorruptError, match=rf"is no list of texts \({opcode} in it\)"):
        ObservedFeatureIndex.load(tmp_path / "obs")


def npy(values):
    return lambda path: np.save(path, values)


def written(text):
    return lambda path: path.write_bytes(text)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("cumulative_sum_index.npy", npy([-1, 12, 6]), "does not ascend"),
        ("cumulative_sum_index.npy", npy([-1, -6, 6]), "does not ascend"),
        ("cumulative_sum_index.npy", npy([0, 6, 12]), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy(np.array([2**64 - 1, 6, 12], np.uint64)), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy([-1.0, 6, 12]), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy([[-1, 6, 12]]), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy(-1), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy([]), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy([-1, 6, 13]), "dataframe_1.parquet has 6 rows, .* says 7"),
        ("cumulative_sum_index.npy", npy([-1, 6, 12, 18]), "dataframe_2.parquet is missing"),
        ("cumulative_sum_index.npy", npy([-1, 6]), "2 labels of 1 blocks"),
        ("cumulative_sum_index.npy", npy(np.array([-1, None], object)), "is damaged"),
        ("cumulative_sum_index.npy", Path.unlink, "cumulative_sum_index.npy is missing"),
        ("cumulative_sum_index.npy", written(b"\x93NUMPY\x01\x00\x76\x00" + b"{" * 118), "is damaged"),
        ("cumulative_sum_index.npy", written(b""), "is damaged"),
        ("dataframe_0.parquet", Path.unlink, "dataframe_0.parquet is missing"),
        ("dataframe_0.parquet", written(b""), "dataframe_0.parquet is damaged"),
        ("dataframe_0.parquet", written(b"PAR1" + b"\xff" * 100 + b"PAR1"), "dataframe_0.parquet is damaged"),
        ("labels.npy", npy(["a"]), "1 labels of 2 blocks"),
        ("labels.npy", npy([["a"], ["b"]]), "2 labels of 2 blocks"),
        ("labels.npy", npy([1, 2]), "holds no texts"),
        ("labels.npy", Path.unlink, "labels.npy is missing"),
        ("labels.npy", npy(np.frombuffer(b"\xff" * 8, "<U1")), "no text"),
        ("cumulative_sum_index.npy", npy(np.array(["-1", "6", "12"])), "does not begin with -1"),
        ("cumulative_sum_index.npy", npy(np.zeros(3, "M8[s]")), "no header of an array"),
        ("version.npy", npy(["0.1.3"]), "holds no version"),
        ("version.npy", npy(3), "holds no version"),
        ("version.npy", Path.unlink, "version.npy is missing"),
        ("version.npy", npy(np.array("x", object)), "is damaged"),
    ],
)
def test_files_that_do_not_belong_together(name, damage, said, tmp_path):
    obs(2).save(tmp_path / "obs")
    damage(tmp_path / "obs" / name)
    with pytest.raises(CorruptError, match=said) as raised:
        ObservedFeatureIndex.load(tmp_path / "obs")
    assert raised.value.kind == "scdl-features"
    assert raised.value.hint == "take the features from a copy, or convert the archive again"
    assert "\n" not in str(raised.value)


def test_a_size_that_is_declared_is_held_against_the_file(tmp_path):
    obs(1).save(tmp_path / "obs")
    path = tmp_path / "obs" / "cumulative_sum_index.npy"
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b"(2,), ", b"(9000000000000000,), ").replace(b" " * 15 + b"\n", b"\n"))
    assert len(path.read_bytes()) == len(stored)
    with pytest.raises(CorruptError, match="is damaged"):
        ObservedFeatureIndex.load(tmp_path / "obs")


def test_there_are_no_features(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="no features are saved here"):
            ObservedFeatureIndex.load(folder)


def test_a_flipped_byte_of_a_page_is_noticed_whatever_the_compression_makes_of_it(tmp_path):
    obs(1).save(tmp_path / "obs")
    path = tmp_path / "obs" / "dataframe_0.parquet"
    sound, wanted, noticed = path.read_bytes(), rows_of(obs(1)), 0
    pages = sound.rindex(b"ARROW:schema") - 400
    for place in range(pages):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        try:
            assert rows_of(ObservedFeatureIndex.load(tmp_path / "obs")) == wanted
        except CorruptError as error:
            assert error.kind == "scdl-features"  # noqa: PT017
            noticed += 1
    assert noticed > pages // 2


def test_a_damaged_footer_never_ends_the_process(tmp_path):
    # What pyarrow says of single columns in the footer it says by abort() where that is damaged.
    obs(1).save(tmp_path / "obs")
    path = tmp_path / "obs" / "dataframe_0.parquet"
    sound = path.read_bytes()
    for place in range(len(sound) // 3, len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        with contextlib.suppress(IngestError):
            rows_of(ObservedFeatureIndex.load(tmp_path / "obs"))


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_noticed(tmp_path, cut):
    obs(1).save(tmp_path / "obs")
    path = tmp_path / "obs" / "dataframe_0.parquet"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(CorruptError, match="is damaged"):
        ObservedFeatureIndex.load(tmp_path / "obs")


def test_texts_that_are_no_utf8_are_noticed(tmp_path):
    obs(1).save(tmp_path / "obs")
    bad = pa.array([b"\xff\xfe"] * 6).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"n0": np.arange(6), "type": bad}), tmp_path / "obs" / "dataframe_0.parquet")
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    assert index.lookup(0, ["n0"])[0] == [0]
    with pytest.raises(CorruptError, match="is damaged"):
        index.lookup(0)


def test_columns_of_one_name_are_refused(tmp_path):
    obs(1).save(tmp_path / "obs")
    table = pa.Table.from_arrays([pa.array(range(6))] * 2, ["x", "x"])
    pq.write_table(table, tmp_path / "obs" / "dataframe_0.parquet")
    with pytest.raises(CorruptError, match="has two columns of one name"):
        ObservedFeatureIndex.load(tmp_path / "obs")


def test_files_without_statistics(tmp_path):
    obs(1).save(tmp_path / "obs")
    table = pa.table(
        {"n0": pa.array([1, None, 2, 3, 4, 5], pa.int8()), "type": TYPES, "l": [[1], [], None, [2], [], []]}
    )
    pq.write_table(table, tmp_path / "obs" / "dataframe_0.parquet", write_statistics=False)
    index, peer = ObservedFeatureIndex.load(tmp_path / "obs"), theirs.ObservedFeatureIndex.load(str(tmp_path / "obs"))
    peer._labels = peer._labels.tolist()
    for own in (index, peer):
        own.append_features(
            {"n0": np.arange(2, dtype=np.int8), "type": np.array(["a", "b"]), "l": np.array(["c", "d"])}
        )
    assert index._feature_arr[0]["n0"].dtype == peer._feature_arr[0]["n0"].dtype == np.float64
    assert list(map(repr, rows_of(index))) == list(map(repr, rows_of(peer)))
