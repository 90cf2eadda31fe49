"""Hypothesis without deadlines: two cores shared by several suites say nothing about the code's speed."""

from __future__ import annotations

from hypothesis import settings

from ingest.testing.examples import examples

settings.register_profile("suite", deadline=None, max_examples=examples(50))
settings.load_profile("suite")
