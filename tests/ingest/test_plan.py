from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.documents import seal, sha256_hex
from ingest.errors import CorruptError
from ingest.plan import Identity, Plan, Provenance, differences, parse_plan
from ingest.window_order import WindowOrder

IDENTITY = Identity(
    cells="c0",
    n_cells=1000,
    sources=("census://2025-11-08/homo_sapiens",),
    matrices=("RNA/X/raw",),
    genes="g0",
    n_genes=60_530,
    order="source",
    cells_per_chunk=300,
    format="h5ad",
    dtype="float32",
    codec="deflate",
    level=1,
    allow_noninteger=False,
)
PLAN = Plan(
    IDENTITY,
    Provenance("2026-01-01T00:00:00+00:00", {"numpy": "2"}, {"workers": 3}),
    {"index": "i", "survey": "s", "genes": "g"},
    {"index": "0", "survey": "1", "genes": "2"},
)
OTHER = {
    "cells": "c1",
    "n_cells": 999,
    "sources": ("census://2025-01-30/homo_sapiens",),
    "matrices": ("X",),
    "genes": "g1",
    "n_genes": 2,
    "order": "window:5:1",
    "cells_per_chunk": 2000,
    "format": "h5",
    "dtype": "int32",
    "codec": "none",
    "level": 6,
    "allow_noninteger": True,
    "normalize": 1e4,
}


def test_a_plan_comes_back():
    assert parse_plan(seal(PLAN.document())) == PLAN


def test_plans_of_earlier_builds_open_and_keep_their_digest():
    """As the build before stored normalisation wrote it: that field has no place in such a plan."""
    sealed = seal(PLAN.document())
    assert sha256_hex(sealed) == "dabf5ad1cde80045bd7f3c258e577bfbbc490a100b3c026af526ebd6afd59b65"
    assert IDENTITY.digest == "3d50bfad00f7953b257d84faaab3aa9f"
    assert b"normalize" not in sealed
    assert parse_plan(sealed).identity.normalize is None


@pytest.mark.parametrize("field", [field.name for field in fields(Identity)])
def test_every_field_counts_and_is_said(field):
    other = replace(IDENTITY, **{field: OTHER[field]})
    assert other != IDENTITY
    assert other.digest != IDENTITY.digest
    [said] = differences(IDENTITY, other)
    assert said
    assert "\n" not in said


def test_equal_identities_have_no_differences():
    assert differences(IDENTITY, replace(IDENTITY)) == []
    assert replace(IDENTITY).digest == IDENTITY.digest


def test_provenance_and_file_names_are_not_identity():
    other = replace(PLAN, provenance=Provenance("later", {}, {}), files={"index": "j"})
    assert other.identity.digest == PLAN.identity.digest


def test_the_wording_names_both_sides():
    here = replace(IDENTITY, sources=OTHER["sources"], cells="c1", genes="g1", n_genes=2, cells_per_chunk=2000)
    assert differences(IDENTITY, here) == [
        "sources: census://2025-11-08/homo_sapiens there, census://2025-01-30/homo_sapiens here",
        "genes 60,530 there, 2 here",
        "cells a chunk 300 there, 2,000 here",
    ]


@pytest.mark.parametrize(
    ("field", "there", "here", "said"),
    [
        ("cells", "a", "b", "cells (which, or their annotations) differ"),
        ("genes", "a", "b", "genes (which, or their order) differ"),
        ("n_cells", 1_000_000, 5, "cells 1,000,000 there, 5 here"),
        ("dtype", "float32", "int32", "dtype float32 there, int32 here"),
        ("allow_noninteger", False, True, "fractional values False there, True here"),
        ("sources", ("a", "b", "c"), ("c",), "sources: a and 1 more there, none other here"),
        ("sources", ("a", "b"), ("b", "a"), "sources: the same, in another order"),
        ("matrices", ("X",), ("raw/X",), "matrices: X there, raw/X here"),
    ],
)
def test_phrases(field, there, here, said):
    assert differences(replace(IDENTITY, **{field: there}), replace(IDENTITY, **{field: here})) == [said]


@given(st.integers(1, 5000), st.integers(1, 700))
def test_chunks_cover_all_rows_and_only_the_last_is_shorter(n_cells, size):
    plan = replace(PLAN, identity=replace(IDENTITY, n_cells=n_cells, cells_per_chunk=size))
    ranges = [plan.rows(chunk) for chunk in range(plan.n_chunks)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == n_cells
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert all(stop - start == size for start, stop in ranges[:-1])
    assert 0 < ranges[-1][1] - ranges[-1][0] <= size


def test_keys_sort_by_number():
    plan = replace(PLAN, identity=replace(IDENTITY, n_cells=2_000_001, cells_per_chunk=1))
    assert plan.key(12) == "chunks/chunk_0000012.h5ad"
    assert PLAN.key(3) == "chunks/chunk_000003.h5ad"
    assert plan.key(2_000_000) > plan.key(999_999)


@pytest.mark.parametrize("drop", ["identity", "provenance", "files", "sha256"])
def test_a_plan_without_its_parts_is_damage(drop):
    document = PLAN.document()
    del document[drop]
    with pytest.raises(CorruptError):
        parse_plan(seal(document))


@pytest.mark.parametrize("change", [{"more": 1}, {"cells": None}])
def test_an_identity_with_other_fields_is_damage(change):
    document = PLAN.document()
    document["identity"].update(change)
    if change.get("cells", 1) is None:
        del document["identity"]["cells"]
    with pytest.raises(CorruptError):
        parse_plan(seal(document))


def test_an_order_of_another_version_is_not_guessed():
    other = replace(PLAN, identity=replace(PLAN.identity, order="blocks:100:0"))
    with pytest.raises(CorruptError) as caught:
        parse_plan(seal(other.document()))
    assert caught.value.kind == "unknown-order"
    mixed = replace(PLAN, identity=replace(PLAN.identity, order="window:100:7"))
    assert parse_plan(seal(mixed.document())).windows == WindowOrder(100, 7)
    assert PLAN.windows is None


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("identity", "n_cells", 0),
        ("identity", "n_cells", -1),
        ("identity", "n_cells", "1000"),
        ("identity", "cells_per_chunk", 0),
        ("identity", "cells_per_chunk", 2.5),
        ("identity", "n_genes", -1),
        ("identity", "sources", "one"),
        ("identity", "sources", [1]),
        ("identity", "allow_noninteger", "no"),
        ("identity", "normalize", 0),
        ("identity", "normalize", -1.0),
        ("identity", "normalize", "1e4"),
        ("identity", "codec", "rar"),
        ("identity", "level", 99),
        ("provenance", "created", 1),
        ("provenance", "versions", {"numpy": 2}),
        ("provenance", "mixing", "well"),
        ("files", "index", 1),
        ("files", "survey", None),
        ("sha256", "genes", 3),
    ],
)
def test_a_plan_that_says_what_cannot_be_is_damage(part, name, value):
    document = PLAN.document()
    document[part][name] = value
    with pytest.raises(CorruptError, match="is no plan"):
        parse_plan(seal(document))


@pytest.mark.parametrize(("part", "name"), [("files", "survey"), ("sha256", "index"), ("files", "genes")])
def test_a_plan_that_names_not_all_of_its_files_is_damage(part, name):
    document = PLAN.document()
    del document[part][name]
    with pytest.raises(CorruptError, match="is no plan"):
        parse_plan(seal(document))


def test_how_well_it_is_mixed_stands_in_a_plan_that_mixes():
    assert "mixing" not in PLAN.document()["provenance"]
    mixed = replace(PLAN, provenance=replace(PLAN.provenance, mixing={"bits": 1.5}))
    assert parse_plan(seal(mixed.document())) == mixed


@pytest.mark.parametrize(
    ("allow", "normalize", "fractional"), [(False, None, False), (True, None, True), (False, 1e4, True)]
)
def test_what_may_be_fractional(allow, normalize, fractional):
    identity = replace(IDENTITY, allow_noninteger=allow, normalize=normalize)
    assert identity.fractional is fractional
