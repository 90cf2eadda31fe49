"""``python -m ingest``."""

import sys

try:
    from ingest.cli.main import main
except ModuleNotFoundError as error:
    # The most likely first mistake: the interpreter outside the environment that was made for this.
    sys.exit(
        f"error: this Python ({sys.executable}) has no package {error.name!r}\n"
        "       use the environment's own: .venv/bin/python -m ingest, or `. .venv/bin/activate` first"
    )

main()
