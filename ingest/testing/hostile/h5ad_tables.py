"""obs and var that are none: groups for datasets and the reverse, labels without texts, texts without bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ingest.testing.hostile.changes import attribute, cast, made, put, remade, remove, several, without_attribute

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TABLES"]

_TEXT = h5py.string_dtype("utf-8")


def _texts(spoil: Callable[[list[bytes]], list[bytes]]) -> Callable[[Any], Any]:
    return lambda old: np.array(spoil([bytes(value) for value in old]), object)


def _last(value: bytes) -> Callable[[Any], Any]:
    return _texts(lambda old: [*old[:-1], value])


def _recursive_labels(file: h5py.File) -> None:
    del file["obs/cell_type/categories"]
    file["obs/cell_type/categories"] = file["obs/cell_type"]


def _legacy_labels(refer: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
    """Spell a categorical column as anndata 0.7 did, its attribute ``categories`` being whatever `refer` gives."""

    def change(file: h5py.File) -> None:
        codes = file["obs/cell_type/codes"][()]
        texts = file["obs/cell_type/categories"][()]
        del file["obs/cell_type"]
        file.create_group("obs/__categories").create_dataset("cell_type", data=texts, dtype=_TEXT)
        column = file["obs"].create_dataset("cell_type", data=codes)
        column.attrs["categories"] = refer(file)

    return change


def _region(file: h5py.File) -> Any:
    return file["X/data"].regionref[:3]


def _dangling(file: h5py.File) -> Any:
    gone = file.create_group("gone").ref
    del file["gone"]
    return gone


def _deep(file: h5py.File) -> None:
    group = file["uns"]
    for _ in range(400):
        group = group.create_group("a")


def _wide(file: h5py.File) -> None:
    for number in range(3000):
        file["uns"].create_group(f"g{number}")


def _names_array(file: h5py.File) -> None:
    del file["obs"].attrs["column-order"]
    file["obs"].attrs["column-order"] = np.arange(4)


TABLES: dict[str, Callable[[h5py.File], None]] = {
    # -- the tables
    "obs-array": made("obs", lambda file, name: file.create_dataset(name, data=np.ones(24))),
    "obs-scalar": made("obs", lambda file, name: file.create_dataset(name, data=1)),
    "obs-compound-nested": made(
        "obs", lambda file, name: file.create_dataset(name, (24,), np.dtype([("index", "S8"), ("a", [("b", "f4")])]))
    ),
    "obs-empty-group": made("obs", lambda file, name: file.create_group(name)),
    "var-array": made("var", lambda file, name: file.create_dataset(name, data=np.ones(40))),
    "var-empty-group": made("var", lambda file, name: file.create_group(name)),
    "var-missing": remove("var"),
    # -- their index
    "index-attribute-missing": without_attribute("obs", "_index"),
    "index-attribute-nowhere": attribute("obs", "_index", "nowhere"),
    "index-attribute-leads-out": attribute("obs", "_index", "../var/_index"),
    "index-attribute-absolute": attribute("obs", "_index", "/var/_index"),
    "index-attribute-root": attribute("obs", "_index", "/"),
    "index-attribute-number": attribute("obs", "_index", 3),
    "index-attribute-list": attribute("obs", "_index", ["_index", "score"]),
    "index-attribute-empty": attribute("obs", "_index", ""),
    "index-attribute-not-utf8": lambda file: (
        file["obs"].attrs.__delitem__("_index"),
        file["obs"].attrs.create("_index", b"_ind\xff", dtype=h5py.string_dtype()),
    )[0],
    "index-missing": remove("obs/_index"),
    "index-group": made("obs/_index", lambda group, name: group.create_group(name)),
    "index-2d": remade("obs/_index", lambda old: old.reshape(2, -1), dtype=_TEXT),
    "index-number": made("obs/_index", lambda group, name: group.create_dataset(name, data=np.arange(24.0))),
    "index-compound": made(
        "obs/_index", lambda group, name: group.create_dataset(name, (24,), np.dtype([("a", "S4")]))
    ),
    "index-repeats": remade("obs/_index", _texts(lambda old: [old[0]] * len(old)), dtype=_TEXT),
    "index-empty-names": remade("obs/_index", _texts(lambda old: [b""] * len(old)), dtype=_TEXT),
    "index-huge-name": remade("obs/_index", _last(b"A" * (1 << 20)), dtype=_TEXT),
    "index-fixed-nul": remade("obs/_index", lambda old: np.array([b"a\0b\0c"] * len(old), "S8")),
    "index-surrogate": remade("obs/_index", _last(b"\xed\xa0\x80"), dtype=_TEXT),
    "index-overlong": remade("obs/_index", _last(b"\xc0\x80"), dtype=_TEXT),
    "gene-empty": remade("var/_index", _last(b""), dtype=_TEXT),
    "gene-huge": remade("var/_index", _last(b"G" * (1 << 20)), dtype=_TEXT),
    "gene-path": remade("var/_index", _last(b"../../etc/passwd"), dtype=_TEXT),
    "gene-newline": remade("var/_index", _last(b"a\nb\x1b[31m"), dtype=_TEXT),
    "gene-index-short": remade("var/_index", lambda old: old[:-1], dtype=_TEXT),
    "gene-index-long": remade("var/_index", lambda old: np.concatenate([old, old[-1:]]), dtype=_TEXT),
    # -- columns
    "order-missing": without_attribute("obs", "column-order"),
    "order-names-nothing": attribute("obs", "column-order", ["cell_type", "nowhere"]),
    "order-twice": attribute("obs", "column-order", ["score", "score"]),
    "order-leads-out": attribute("obs", "column-order", ["../X/data", "score"]),
    "order-absolute": attribute("obs", "column-order", ["/X/data"]),
    "order-numbers": _names_array,
    "order-text": attribute("obs", "column-order", "score"),
    "column-2d": remade("obs/score", lambda old: np.stack([old, old])),
    "column-scalar": remade("obs/score", lambda old: old[0]),
    "column-short": remade("obs/score", lambda old: old[:-1]),
    "column-long": remade("obs/score", lambda old: np.concatenate([old, old])),
    "column-complex": cast("obs/score", np.complex128),
    "column-compound": made(
        "obs/score", lambda group, name: group.create_dataset(name, (24,), np.dtype([("a", "f4")]))
    ),
    "column-ragged": made("obs/score", lambda group, name: group.create_dataset(name, (24,), h5py.vlen_dtype("f4"))),
    "column-references": made(
        "obs/score",
        lambda group, name: group.create_dataset(name, data=np.array([group.ref] * 24, object), dtype=h5py.ref_dtype),
    ),
    "column-opaque": made("obs/score", lambda group, name: group.create_dataset(name, data=np.zeros(24, "V3"))),
    "column-named-type": made("obs/score", lambda group, name: group.__setitem__(name, np.dtype("f8"))),
    "column-no-space": made("obs/score", lambda group, name: group.create_dataset(name, data=h5py.Empty("f8"))),
    "column-empty-group": made("obs/score", lambda group, name: group.create_group(name)),
    "column-encoding-unknown": attribute("obs/cell_type", "encoding-type", "pickle"),
    "column-not-utf8": remade("obs/note", _last(b"\xff\xfe"), dtype=_TEXT),
    "column-fixed-not-utf8": remade("obs/note", lambda old: np.array([b"\xe9\xff"] * len(old), "S2")),
    "column-ascii-lies": remade(
        "obs/note", lambda old: np.array(["é".encode()] * len(old), object), dtype=h5py.string_dtype("ascii")
    ),
    "column-enum-lies": made(
        "obs/flag",
        lambda group, name: group.create_dataset(
            name, data=np.full(24, 7, np.int8), dtype=h5py.enum_dtype({"FALSE": 0, "TRUE": 1}, basetype="i1")
        ),
    ),
    # -- labels
    "codes-missing": remove("obs/cell_type/codes"),
    "codes-float": cast("obs/cell_type/codes", np.float32),
    "codes-2d": remade("obs/cell_type/codes", lambda old: old.reshape(2, -1)),
    "codes-short": remade("obs/cell_type/codes", lambda old: old[:-1]),
    "codes-minus-two": put("obs/cell_type/codes", 3, -2),
    "codes-int64-top": remade(
        "obs/cell_type/codes", lambda old: np.where(np.arange(len(old)) == 2, 2**63 - 1, old.astype("i8"))
    ),
    "codes-uint8-top": remade("obs/cell_type/codes", lambda old: np.full(len(old), 255, np.uint8)),
    "codes-group": made("obs/cell_type/codes", lambda group, name: group.create_group(name)),
    "categories-missing": remove("obs/cell_type/categories"),
    "categories-2d": remade("obs/cell_type/categories", lambda old: old.reshape(1, -1), dtype=_TEXT),
    "categories-scalar": remade("obs/cell_type/categories", lambda old: old[0], dtype=_TEXT),
    "categories-empty": remade("obs/cell_type/categories", lambda old: old[:0], dtype=_TEXT),
    "categories-repeat": remade("obs/cell_type/categories", _texts(lambda old: [old[0]] * len(old)), dtype=_TEXT),
    "categories-group": made("obs/cell_type/categories", lambda group, name: group.create_group(name)),
    "categories-recursive": _recursive_labels,
    "categories-compound": made(
        "obs/cell_type/categories", lambda group, name: group.create_dataset(name, (2,), np.dtype([("a", "S4")]))
    ),
    "categories-nan": made(
        "obs/cell_type/categories", lambda group, name: group.create_dataset(name, data=[np.nan, 1.0])
    ),
    "ordered-text": attribute("obs/cell_type", "ordered", "perhaps"),
    "legacy-labels": _legacy_labels(lambda file: file["obs/__categories/cell_type"].ref),
    "legacy-labels-dangling": _legacy_labels(_dangling),
    "legacy-labels-of-x": _legacy_labels(lambda file: file["X"].ref),
    "legacy-labels-of-root": _legacy_labels(lambda file: file.ref),
    "legacy-labels-region": _legacy_labels(_region),
    "legacy-labels-text": _legacy_labels(lambda _: "cell_type"),
    # -- nullable numbers
    "mask-missing": remove("obs/lane/mask"),
    "mask-short": remade("obs/lane/mask", lambda old: old[:-1]),
    "mask-number": cast("obs/lane/mask", np.float32),
    "values-missing": remove("obs/lane/values"),
    "values-long": remade("obs/lane/values", lambda old: np.concatenate([old, old])),
    "values-2d": remade("obs/lane/values", lambda old: old.reshape(2, -1)),
    # -- beside
    "uns-deep": _deep,
    "uns-wide": _wide,
    "uns-dataset": made("uns", lambda file, name: file.create_dataset(name, data=1)),
    "uns-not-utf8-name": lambda file: file["uns"].create_group(b"caf\xe9"),
    "obs-not-utf8-name": several(lambda file: file["obs"].create_dataset(b"caf\xe9", data=np.ones(24))),
    "obsm-short": remade("obsm/X_pca", lambda old: old[:-1]),
    "obsm-dataset": made("obsm", lambda file, name: file.create_dataset(name, data=1)),
}
