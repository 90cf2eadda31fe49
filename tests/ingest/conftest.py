"""Hypothesis without deadlines: two cores shared by several suites say nothing about the code's speed. Few plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from ingest.testing.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("suite", deadline=None, max_examples=examples(50))
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def plots_of_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let nothing be drawn but in tests marked ``plots``: it takes ten times what all else does.

    What stands in differs where plots would.
    """
    if request.node.get_closest_marker("plots"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.hvg.plot.draw_hvgs", lambda found, *_, **__: repr(found.choice.genes).encode())
        patch.setattr("ingest.qc.plot.draw_qc", lambda _request, _found, document: repr(document["rules"]).encode())
        yield
