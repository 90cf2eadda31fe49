"""Hypothesis without deadlines: two cores shared by several suites say nothing about the code's speed."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
