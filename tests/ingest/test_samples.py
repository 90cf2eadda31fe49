"""Cells a sample, counted batch by batch and held against pandas."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.samples import SampleCounts
from ingest.testing.examples import examples


def opened(layouts):
    surveys = [
        SimpleNamespace(layout=layout, datasets={}, source=SimpleNamespace(organism=f"o{at}"))
        for at, layout in enumerate(layouts)
    ]
    return SimpleNamespace(surveys=surveys, labels=[f"label{at}" for at in range(len(layouts))])


@settings(max_examples=examples(32))
@given(
    st.lists(st.sampled_from(["soma", "csr"]), min_size=1, max_size=3),
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["d1", "d2", None]),
            st.sampled_from(["SRX1", "SRX2", "", None]),
            st.sampled_from(["lung", "gut", None]),
            st.sampled_from(["homo_sapiens", "Mus musculus", None]),
        ),
        min_size=1,
        max_size=60,
    ),
    st.sets(st.sampled_from(["dataset_id", "SRX_accession", "tissue", "organism"])),
    st.integers(1, 20),
)
def test_samples_are_what_pandas_counts(layouts, rows, columns, n_rows):
    frame = pd.DataFrame(rows, columns=["source", "dataset_id", "SRX_accession", "tissue", "organism"])
    frame["source"] %= len(layouts)
    frame = frame.sort_values("source", kind="stable").reset_index(drop=True)
    table = pa.table(
        {name: pa.array(frame[name], pa.string()).dictionary_encode() for name in sorted(columns)}
        | {"x": range(len(frame))}
    )
    counts = SampleCounts(opened(layouts))
    for start in range(0, len(frame), n_rows):
        codes = frame["source"].to_numpy("int32")[start : start + n_rows]
        counts.add(table.slice(start, n_rows), codes)
    found = counts.experiments()
    sample = frame["source"].map("label{}".format)
    is_soma = frame["source"].map(lambda at: layouts[at] == "soma")
    for name, named in (("dataset_id", is_soma), ("SRX_accession", ~is_soma)):
        if name in columns:
            sample = sample.mask(named & frame[name].notna() & (frame[name] != ""), frame[name])
    assert {name: entry["n_cells"] for name, entry in found.items()} == sample.value_counts().to_dict()
    for name, entry in found.items():
        mine = frame[sample == name]
        assert entry["accession"] == name
        assert entry["tissue"] == ranked(mine["tissue"] if "tissue" in columns else None)
        organism = ranked(mine["organism"] if "organism" in columns else None) or f"o{mine['source'].min()}"
        assert entry["organism"] == {"homo_sapiens": "Homo sapiens"}.get(organism, organism)
        labels = [f"label{at}" for at in sorted(mine["source"].unique())]
        assert entry.get("files", [name]) == ([name] if is_soma[mine.index].any() else labels)


def ranked(texts):
    counted = [] if texts is None else texts.dropna().value_counts().items()
    return "; ".join(text for text, _ in sorted(counted, key=lambda item: (-item[1], item[0]))) or None
