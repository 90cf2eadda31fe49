"""What every store must do, as tests to inherit.

A new store subclasses `StoreConformance` in a test module and says how it is opened::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def open_again(self, tmp_path):
            return lambda: MyStore(tmp_path)

Call ``pytest.register_assert_rewrite("ingest.testing.store_conformance")`` in a conftest for readable failures.
"""

# ruff: noqa: S101  # assert is how pytest speaks
# ruff: noqa: D102  # a test's name says it

from __future__ import annotations

import array
import hashlib
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ingest.errors import (
    AlreadyExistsError,
    ConfigError,
    CorruptError,
    IngestError,
    NotFoundError,
    PreconditionError,
)
from ingest.store.body import holds, object_sha256, open_body
from ingest.store.probe import check_preconditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ingest.store.base import ObjectStat, Store

__all__ = ["BAD_KEYS", "ODD_KEYS", "StoreConformance"]

ODD_KEYS = (
    "a",
    "_ingest/receipts/000001",
    "deep/er/and/deep/er/key.json",
    "with space and  two",
    "percent%2Fencoded%",
    "plus+equals=&and?question",
    "hash#fragment;semi:colon@at",
    "quote'double\"back`tick",
    "[brackets]{braces}<angles>|",
    "~tilde!bang$dollar,comma*star",
    "-leading-dash",
    "..two-dots-before",
    "ünïcode/日本語/\U0001d6fc",
    "x" * 255,
)
BAD_KEYS = (
    "",
    "/absolute",
    "trailing/",
    "double//slash",
    "..",
    "a/../b",
    "./a",
    "a/.",
    "nul\0",
    "new\nline",
    "back\\slash",
)
_RACERS = 8


class StoreConformance:
    """Tests over an empty store; subclasses give `open_again`."""

    @pytest.fixture
    def open_again(self) -> Callable[[], Store]:
        """Return what opens one and the same place, empty at the start of each test, with a handle of its own."""
        raise NotImplementedError("override the fixture open_again")

    @pytest.fixture
    def store(self, open_again: Callable[[], Store]) -> Iterator[Store]:
        """Open the place."""
        store = open_again()
        yield store
        store.close()

    # creating

    def test_what_is_put_is_got(self, store: Store) -> None:
        store.put_new("k", b"some bytes")
        assert store.get("k") == b"some bytes"

    def test_put_new_returns_what_stat_says(self, store: Store) -> None:
        stat = store.put_new("folder/k", b"12345")
        assert (stat.key, stat.size) == ("folder/k", 5)
        assert store.stat("folder/k") == stat

    def test_put_new_refuses_an_existing_key_and_leaves_it_alone(self, store: Store) -> None:
        before = store.put_new("k", b"first")
        with pytest.raises(AlreadyExistsError):
            store.put_new("k", b"second")
        assert store.get("k") == b"first"
        assert store.stat("k") == before

    def test_put_new_refuses_the_same_bytes_too(self, store: Store) -> None:
        store.put_new("k", b"same")
        with pytest.raises(AlreadyExistsError):
            store.put_new("k", b"same")

    def test_of_racing_threads_one_creates(self, store: Store) -> None:
        won = _race(lambda i: store.put_new("k", b"%d" % i), AlreadyExistsError)
        assert len(won) == 1
        assert store.get("k") == b"%d" % won[0]

    def test_of_racing_handles_one_creates(self, store: Store, open_again: Callable[[], Store]) -> None:
        handles = [open_again() for _ in range(_RACERS)]
        won = _race(lambda i: handles[i].put_new("k", b"%d" % i * 1000), AlreadyExistsError)
        for handle in handles:
            handle.close()
        assert len(won) == 1
        assert store.get("k") == b"%d" % won[0] * 1000

    def test_a_refused_write_is_seen_by_the_probe(self, store: Store) -> None:
        store.put_new("plan.json", b"{}")
        check_preconditions(store, "plan.json", b"{}")
        assert store.get("plan.json") == b"{}"

    def test_the_probe_proves_nothing_without_its_object(self, store: Store) -> None:
        with pytest.raises(NotFoundError):
            check_preconditions(store, "plan.json", b"{}")

    # contents

    def test_an_empty_object(self, store: Store) -> None:
        assert store.put_new("k", b"").size == 0
        assert store.get("k") == b""
        assert [stat.size for stat in store.list("")] == [0]

    def test_a_large_object(self, store: Store) -> None:
        data = random.Random(1).randbytes(20_000_000)  # noqa: S311  # a repeatable filling
        assert store.put_new("k", data).size == len(data)
        assert store.get("k") == data
        assert store.get_range("k", 19_000_000, 1_000_000) == data[19_000_000:]

    def test_every_byte_value_survives(self, store: Store) -> None:
        data = bytes(range(256)) * 3 + b"\r\n--\r\n\r\n\x1a\n\n"
        store.put_new("k", data)
        assert store.get("k") == data

    def test_a_view_into_changeable_memory(self, store: Store) -> None:
        memory = bytearray(b"not this" + b"but this" * 100_000 + b"nor this")
        store.put_new("k", memoryview(memory)[8:-8])
        assert store.get("k") == b"but this" * 100_000

    def test_a_view_of_numbers_is_its_bytes(self, store: Store) -> None:
        numbers = array.array("i", range(1000))
        assert store.put_new("k", memoryview(numbers)).size == len(numbers) * numbers.itemsize
        assert store.get("k") == numbers.tobytes()

    # keys

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_odd_keys(self, store: Store, key: str) -> None:
        stat = store.put_new(key, key.encode())
        assert store.get(key) == key.encode()
        assert list(store.list("")) == [stat]
        assert list(store.list(key)) == [stat]
        assert store.get_range(key, 0, 1) == key.encode()[:1]
        store.delete(key, expected=store.replace(key, b"other", expected=stat.version).version)
        assert list(store.list("")) == []

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_bad_keys_are_refused_everywhere(self, store: Store, key: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.put_new(key, b""),
            lambda: store.replace(key, b"", expected="1"),
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.stat(key),
            lambda: store.delete(key, expected="1"),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match="cannot be a key"):
                call()

    def test_keys_differ_by_case_and_by_prefix(self, store: Store) -> None:
        for key in ("k", "K", "k1", "k10"):
            store.put_new(key, key.encode())
        assert [store.get(key) for key in ("k", "K", "k1", "k10")] == [b"k", b"K", b"k1", b"k10"]

    # what is absent

    def test_only_absence_is_not_found(self, store: Store) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.get("gone"),
            lambda: store.get("gone/deeper"),
            lambda: store.get_range("gone", 0, 1),
            lambda: store.get_range("gone", 0, 0),
            lambda: store.stat("gone"),
            lambda: store.delete("gone", expected="1"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError, match="gone"):
                call()

    def test_a_folder_is_no_object(self, store: Store) -> None:
        store.put_new("folder/k", b"")
        with pytest.raises(NotFoundError):
            store.get("folder")
        with pytest.raises(NotFoundError):
            store.stat("folder")

    def test_errors_name_the_key_and_pickle(self, store: Store) -> None:
        with pytest.raises(NotFoundError) as caught:
            store.get("folder/gone")
        again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
        assert isinstance(again, NotFoundError)
        assert (again.key, str(again)) == ("folder/gone", f"{store.url}/folder/gone does not exist")

    # ranges

    @pytest.mark.parametrize(("start", "length"), [(0, 10), (0, 1), (3, 4), (9, 1), (5, 0), (0, 0)])
    def test_ranges(self, store: Store, start: int, length: int) -> None:
        store.put_new("k", b"0123456789")
        assert store.get_range("k", start, length) == b"0123456789"[start : start + length]

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (1000, 1)])
    def test_a_range_beyond_the_end_is_corrupt(self, store: Store, start: int, length: int) -> None:
        store.put_new("k", b"0123456789")
        with pytest.raises(CorruptError) as caught:
            store.get_range("k", start, length)
        assert caught.value.kind == "short-read"

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
    def test_a_negative_range_is_a_mistake(self, store: Store, start: int, length: int) -> None:
        with pytest.raises(ValueError, match="range"):
            store.get_range("k", start, length)

    # listing

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert list(store.list("")) == []
        assert list(store.list("nothing/here/")) == []

    def test_a_prefix_is_the_beginning_of_a_key(self, store: Store) -> None:
        for key in ("a/1", "a/2", "ab", "b/1", "b"[::-1] + "c/a/1"):
            store.put_new(key, b"")
        assert _keys(store, "a/") == ["a/1", "a/2"]
        assert _keys(store, "a") == ["a/1", "a/2", "ab"]
        assert _keys(store, "a/1") == ["a/1"]
        assert _keys(store, "c") == []

    def test_listing_is_in_key_order(self, store: Store) -> None:
        keys = ["a", "a-b/x", "a.b", "b/a/c", "b/a-c", "b/a.c/d", "B", "b0", "é", "z/10", "z/2", "\U0001d6fc", "\uffee"]
        for key in random.Random(2).sample(keys, len(keys)):  # noqa: S311  # a repeatable order
            store.put_new(key, b"")
        assert _keys(store, "") == sorted(keys)

    def test_listing_says_what_stat_says(self, store: Store) -> None:
        for i in range(5):
            store.put_new(f"k{i}", b"x" * i)
        assert list(store.list("k")) == [store.stat(f"k{i}") for i in range(5)]

    def test_listing_has_all_pages(self, store: Store) -> None:
        keys = [f"many/{i:04}" for i in range(1050)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put_new(key, b""), keys))
        assert _keys(store, "many/") == keys
        assert [stat.key for stat in store.list("many/", after=keys[10])] == keys[11:]

    @pytest.mark.parametrize("after", ["a", "a/", "a/1", "a/1x", "a/3", "a/3/", "b", "é"])
    def test_listing_begins_after_a_key(self, store: Store, after: str) -> None:
        keys = ["0", "a/1", "a/2", "a/3", "b", "z"]
        for key in keys:
            store.put_new(key, b"")
        assert [stat.key for stat in store.list("", after=after)] == [key for key in keys if key > after]
        assert [stat.key for stat in store.list("a/", after=after)] == [key for key in keys[1:4] if key > after]

    @pytest.mark.parametrize("prefix", ["/", "../", "a/../../", "a//"])
    def test_a_listing_stays_inside(self, store: Store, prefix: str) -> None:
        with pytest.raises(ConfigError):
            list(store.list(prefix))

    # replacing

    def test_replace_overwrites_the_version_named(self, store: Store) -> None:
        old = store.put_new("k", b"old")
        new = store.replace("k", b"newer", expected=old.version)
        assert store.get("k") == b"newer"
        assert store.stat("k") == new
        assert (new.size, new.version != old.version) == (5, True)

    def test_replace_refuses_another_version(self, store: Store) -> None:
        old = store.put_new("k", b"old")
        new = store.replace("k", b"new", expected=old.version)
        with pytest.raises(PreconditionError):
            store.replace("k", b"late", expected=old.version)
        assert store.get("k") == b"new"
        assert store.stat("k") == new

    def test_replace_refuses_what_is_absent(self, store: Store) -> None:
        stat = store.put_new("other", b"")
        with pytest.raises(PreconditionError):
            store.replace("k", b"new", expected=stat.version)
        assert _keys(store, "") == ["other"]

    def test_replace_with_the_same_bytes_succeeds(self, store: Store) -> None:
        stat = store.put_new("k", b"same")
        again = store.replace("k", b"same", expected=stat.version)
        assert store.replace("k", b"other", expected=again.version).size == 5

    def test_of_racing_threads_one_replaces(self, store: Store) -> None:
        version = store.put_new("k", b"old").version
        won = _race(lambda i: store.replace("k", b"new %d" % i, expected=version), PreconditionError)
        assert len(won) == 1
        assert store.get("k") == b"new %d" % won[0]

    def test_no_version_comes_back(self, store: Store) -> None:
        stat = store.put_new("k", b"%06d" % 0)
        versions = {stat.version}
        for i in range(1, 60):
            stat = store.replace("k", b"%06d" % i, expected=stat.version)
            versions.add(stat.version)
        assert len(versions) == 60

    # from files

    @pytest.mark.parametrize("size", [0, 1, 3_000_001])
    def test_a_file_becomes_its_bytes_and_stays(self, store: Store, tmp_path: Path, size: int) -> None:
        path = _file(tmp_path, bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        stat = store.put_new_file("folder/k", path)
        assert (stat.key, stat.size) == ("folder/k", size)
        assert store.stat("folder/k") == stat
        assert store.get("folder/k") == path.read_bytes()

    def test_a_file_never_overwrites(self, store: Store, tmp_path: Path) -> None:
        before = store.put_new("k", b"first")
        for data in (b"second", b"first"):
            with pytest.raises(AlreadyExistsError):
                store.put_new_file("k", _file(tmp_path, data))
        assert store.get("k") == b"first"
        assert store.stat("k") == before

    def test_a_copy_of_a_file_does_not_change_with_it(self, store: Store, tmp_path: Path) -> None:
        path = _file(tmp_path, b"as it was")
        store.put_new_file("k", path)
        with path.open("r+b") as file:
            file.write(b"AS")
        assert store.get("k") == b"as it was"

    def test_of_racing_files_one_creates(self, store: Store, tmp_path: Path) -> None:
        paths = [_file(tmp_path, b"%d" % i * 1000, f"f{i}") for i in range(_RACERS)]
        won = _race(lambda i: store.put_new_file("k", paths[i]), AlreadyExistsError)
        assert len(won) == 1
        assert store.get("k") == b"%d" % won[0] * 1000

    def test_a_file_replaces_the_version_named(self, store: Store, tmp_path: Path) -> None:
        old = store.put_new("k", b"old")
        new = store.replace_file("k", _file(tmp_path, b"newer"), expected=old.version)
        assert store.get("k") == b"newer"
        assert store.stat("k") == new
        for expected, data in ((old.version, b"late"), (old.version, b"newer")):
            with pytest.raises(PreconditionError):
                store.replace_file("k", _file(tmp_path, data), expected=expected)
        with pytest.raises(PreconditionError):
            store.replace_file("absent", _file(tmp_path, b"new"), expected=new.version)
        assert store.stat("k") == new

    def test_an_object_is_compared_with_a_file_to_the_last_byte(self, store: Store, tmp_path: Path) -> None:
        data = b"0123456789" * 1000
        store.put_new("k", data)
        for other, same in ((data, True), (data[:-1], False), (data[:-1] + b"8", False), (b"", False)):
            with open_body(_file(tmp_path, other)) as body:
                assert holds(store, "k", body) is same
        assert object_sha256(store, "k", len(data)) == hashlib.sha256(data).hexdigest()

    # deleting

    def test_delete_removes_and_the_key_is_free_again(self, store: Store) -> None:
        stat = store.put_new("k", b"old")
        store.delete("k", expected=stat.version)
        with pytest.raises(NotFoundError):
            store.get("k")
        assert _keys(store, "") == []
        store.put_new("k", b"new")
        assert store.get("k") == b"new"

    def test_delete_refuses_another_version(self, store: Store) -> None:
        old = store.put_new("k", b"old")
        store.replace("k", b"new", expected=old.version)
        with pytest.raises(PreconditionError):
            store.delete("k", expected=old.version)
        assert store.get("k") == b"new"

    # handles

    def test_another_handle_sees_everything(self, store: Store, open_again: Callable[[], Store]) -> None:
        stats = [store.put_new(f"k{i}", b"%d" % i) for i in range(3)]
        other = open_again()
        assert other.url == store.url
        assert list(other.list("")) == stats
        new = other.replace("k0", b"changed", expected=stats[0].version)
        assert store.stat("k0") == new
        assert store.get("k0") == b"changed"
        other.close()

    def test_the_url_is_plain(self, store: Store) -> None:
        assert store.url
        assert not store.url.endswith("/")
        assert "@" not in store.url

    def test_nothing_half_written_is_seen(self, store: Store, open_again: Callable[[], Store]) -> None:
        contents = [bytes([i]) * 3_000_000 for i in range(4)]
        done, torn = threading.Event(), []
        reader = open_again()

        def look() -> None:
            while not done.is_set():
                for stat in reader.list(""):
                    data = _get_or_none(reader, stat.key)
                    if stat.size != 3_000_000 or (data is not None and data not in contents):
                        torn.append(stat)

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            try:
                stat = store.put_new("k", contents[0])
                for i, data in enumerate(contents[1:]):
                    store.put_new(f"k{i}", data)
                    stat = store.replace("k", data, expected=stat.version)
            finally:
                done.set()
            looking.result()
        reader.close()
        assert torn == []

    def test_quiet_work_needs_no_retries(self, store: Store) -> None:
        store.put_new("k", b"")
        store.get("k")
        assert store.retries == 0


def _file(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / f"from-{name}"
    path.write_bytes(data)
    return path


def _keys(store: Store, prefix: str) -> list[str]:
    return [stat.key for stat in store.list(prefix)]


def _get_or_none(store: Store, key: str) -> bytes | None:
    try:
        return store.get(key)
    except NotFoundError:
        return None


def _race(act: Callable[[int], ObjectStat], loses: type[IngestError]) -> list[int]:
    """Let `act` run in threads at once and return who came through; the others must fail with `loses`."""
    start = threading.Barrier(_RACERS)

    def run(i: int) -> bool:
        start.wait()
        try:
            act(i)
        except loses:
            return False
        return True

    with ThreadPoolExecutor(_RACERS) as pool:
        return [i for i, won in enumerate(pool.map(run, range(_RACERS))) if won]
