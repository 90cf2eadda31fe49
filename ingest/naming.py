"""Names of sources and cells that are unique in the whole dataset. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.source import Source
    from ingest.survey.model import SourceSurvey

__all__ = ["cell_names", "source_labels"]


def source_labels(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return a distinct label for each source: its own where no other has it, else with a number behind it."""
    taken: dict[str, int] = {}
    labels = []
    for source in sources:
        count = taken.get(source.label, 0) + 1
        taken[source.label] = count
        label = source.label if count == 1 else f"{source.label}-{count}"
        while count > 1 and label in taken:
            count += 1
            label = f"{source.label}-{count}"
        taken.setdefault(label, 1)
        labels.append(label)
    return tuple(labels)


def cell_names(
    survey: SourceSurvey,
    label: str,
    coordinates: np.ndarray[Any, np.dtype[np.int64]],
    own_names: pa.StringArray | None,
    *,
    only_soma: bool,
) -> pa.StringArray:
    """Return obs names: the joinid for the only SOMA source of a dataset, else ``<label>:<joinid or name>``.

    A file whose own names repeat gets the row number behind them.
    """
    numbers = pa.array(np.asarray(coordinates)).cast(pa.string())
    if own_names is None:
        return numbers if only_soma else pc.binary_join_element_wise(label, numbers, ":")
    if survey.names_unique:
        return pc.binary_join_element_wise(label, own_names, ":")
    return pc.binary_join_element_wise(label, own_names, numbers, ":")
