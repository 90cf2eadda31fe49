"""What can be said of the Dockerfile without building it; `tests/image` does the rest."""

from __future__ import annotations

import fnmatch
import importlib
import re
from pathlib import Path

import pytest

import ingest

ROOT = Path(ingest.__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PINNED = re.compile(r"^[a-z./-]+:[0-9][\w.-]*(@sha256:[0-9a-f]{64})?$")

INSTALLERS = ("bin/pip*", "bin/wheel", "lib/python3*/site-packages/*", "lib/python3*/ensurepip")
"""Of the official image, whose own packages are pip, setuptools and wheel alone."""


def instructions(text):
    """Return (instruction, arguments) of a Dockerfile, as Docker reads it: without comments, lines joined."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.split("\n") if line.strip()]


def stages(text):
    found = []
    for name, said in instructions(text):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, said))
    return found


def complaints(text):
    """Return what is wrong with a Dockerfile, in words."""
    arguments = dict(said.split("=", 1) for name, said in instructions(text) if name == "ARG")
    last = stages(text)[-1]
    runs = " ".join(said for name, said in last if name == "RUN")
    users = [said for name, said in last if name == "USER"]
    rules = {
        "base is not pinned": not PINNED.match(arguments.get("BASE", "")),
        "stages have other bases": any(
            said.split()[0] != "${BASE}" for name, said in instructions(text) if name == "FROM"
        ),
        "one stage only": len(stages(text)) < 2,
        "runs as root": not users or not re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1]),
        "user comes too early": bool(users)
        and any(name == "RUN" for name, _ in last[last.index(("USER", users[-1])) :]),
        "compilers": re.search(r"\b(gcc|g\+\+|build-essential|make|clang|binutils|dev)\b", runs) is not None,
        "pip in the last stage": re.search(r"(?<![\w/])pip ", runs) is not None,
        "pip of the base stays": any(f"/usr/local/{path}" not in runs for path in INSTALLERS),
        "recommended packages": "apt-get install" in runs and "--no-install-recommends" not in runs,
        "lists of packages stay": "apt-get update" in runs and "rm -rf /var/lib/apt/lists" not in runs,
        "something is fetched by hand": re.search(r"\b(curl|wget) \S*(http|-)|^ADD ", text, re.MULTILINE) is not None,
        "dependencies are not pinned": "--constraint constraints.txt" not in text,
    }
    return [name for name, broken in rules.items() if broken]


def test_the_dockerfile_keeps_the_rules():
    assert complaints(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("ARG BASE=python:3.11-slim-bookworm", "ARG BASE=python:latest", "base is not pinned"),
        ("FROM ${BASE}\n", "FROM debian:12\n", "stages have other bases"),
        ("USER 10001:10001", "USER root", "runs as root"),
        ("USER 10001:10001\n", "", "runs as root"),
        ("USER 10001:10001", "USER 10001:10001\nRUN true", "user comes too early"),
        ("wget \\", "wget gcc \\", "compilers"),
        ("--no-install-recommends wget", "wget", "recommended packages"),
        ("rm -rf /var/lib/apt/lists/*", "true", "lists of packages stay"),
        ("WORKDIR /tmp", "ADD https://example.org/x /x", "something is fetched by hand"),
        ("WORKDIR /tmp", "RUN pip install x", "pip in the last stage"),
        ("rm -rf /usr/local/bin/pip*", "true", "pip of the base stays"),
        ("/usr/local/lib/python3*/site-packages/*", "", "pip of the base stays"),
        ("/usr/local/lib/python3*/ensurepip", "", "pip of the base stays"),
        (" --constraint constraints.txt", "", "dependencies are not pinned"),
    ],
)
def test_every_rule_of_the_dockerfile_notices(old, new, complaint):
    assert old in DOCKERFILE
    assert complaint in complaints(DOCKERFILE.replace(old, new))


def test_what_is_copied_is_let_through_and_nothing_else():
    patterns = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    copied = {
        word
        for name, said in instructions(DOCKERFILE)
        if name == "COPY" and "--from" not in said
        for word in said.split()[:-1]
    }
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    assert any(fnmatch.fnmatch("ingest/__pycache__", pattern) for pattern in patterns[1:])


def test_the_locators_that_the_image_names_are_there():
    named = re.search(r"NUMBA_CACHE_LOCATOR_CLASSES=(\S+)", DOCKERFILE)[1].split(",")
    caching = importlib.import_module("numba.core.caching")
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module) if module else caching, attribute)
