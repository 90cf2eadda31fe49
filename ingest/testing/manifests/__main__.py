"""Say what is wrong with the manifests of a folder: ``python -m ingest.testing.manifests k8s/overlays/aws``."""

from __future__ import annotations

import sys
from pathlib import Path

from ingest.errors import IngestError
from ingest.testing.manifests.documents import render
from ingest.testing.manifests.policy import RULES, complaints
from ingest.testing.manifests.schemas import invalid


def main(folders: list[str]) -> int:
    """Print a line for everything that is wrong, or that nothing is; return 1, or 2 if nothing could be looked at."""
    if not folders or any(folder.startswith("-") for folder in folders):
        sys.stderr.write(f"{__doc__}\n")
        return 0 if {"-h", "--help"} & set(folders) else 2
    found: list[str] = []
    try:
        for folder in folders:
            documents = render(Path(folder))
            lines = [line for document in documents for line in invalid(document)] or complaints(documents)
            found += [f"{folder}: {line}" for line in lines]
            if not lines:
                sys.stdout.write(f"{folder}: {len(documents)} documents, valid, and keep all {len(RULES)} rules\n")
    except IngestError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"       {error.hint}\n" if error.hint else ""))
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
