"""Conformance suites, look-alikes and fakes that a third party can use too."""
