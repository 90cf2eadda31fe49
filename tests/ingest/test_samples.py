"""Cells a sample, counted batch by batch and held against pandas."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.samples import SampleCounts


def opened(layouts):
    surveys = [
        SimpleNamespace(layout=layout, datasets={}, source=SimpleNamespace(organism=f"o{at}"))
        for at, layout in enumerate(layouts)
    ]
    return SimpleNamespace(surveys=surveys, labels=[f"label{at}" for at in range(len(layouts))])


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(["soma", "csr"]), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["d1", "d2", None]), st.sampled_from(["lung", "gut", None])),
        min_size=1,
        max_size=60,
    ),
    st.sets(st.sampled_from(["dataset_id", "tissue"])),
    st.integers(1, 20),
)
def test_samples_are_what_pandas_counts(layouts, rows, columns, n_rows):
    frame = pd.DataFrame(rows, columns=["source", "dataset_id", "tissue"])
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
    found = {name: (entry["n_cells"], entry["tissue"]) for name, entry in counts.experiments().items()}
    by_label = frame["source"].map("label{}".format)
    is_named = frame["source"].map(lambda at: layouts[at] == "soma") & frame["dataset_id"].notna()
    sample = frame["dataset_id"].where(is_named, by_label) if "dataset_id" in columns else by_label
    assert {name: cells for name, (cells, _) in found.items()} == sample.value_counts().to_dict()
    for name, (_, tissue) in found.items():
        mine = frame.loc[sample == name, "tissue"].dropna() if "tissue" in columns else pd.Series([], dtype=object)
        ranked = sorted(mine.value_counts().items(), key=lambda item: (-item[1], item[0]))
        assert tissue == ("; ".join(text for text, _ in ranked) if ranked else None)
