"""Commands in processes of their own, forked off one that has imported everything: for tests that kill many.

``python -m ingest run`` spends two seconds of CPU before its first read; a test that ends a driver twenty times would
mostly measure that. Here a process is asked for by `multiprocessing`'s fork server, and is otherwise an ordinary one:
its own pid, environment, signals, files and, with ``--pool ray``, its own Ray.

::

    driver = ForkedCommand(["run", dest, "--index", index, "--pool", "serial"], environment)
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=60)
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ForkedCommand"]

_IMPORTED = (
    "anndata",
    "ingest.cli.execute",
    "ingest.fetch.soma",
    "ingest.encode.open",
    "ingest.serial_pool",
    "ingest.unit_maker",
    "ingest.worker",
    "pyarrow.dataset",
    "tiledbsoma",
)
"""What a run imports when it comes to it. Not Ray: it reads the environment when it is imported."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, *_IMPORTED])


class ForkedCommand:
    """A command under way; what `subprocess.Popen` says of a process, as far as tests ask.

    Parameters
    ----------
    arguments
        Words after ``python -m ingest``.
    environment
        All variables of the process. Those that a library reads when it is imported, or the C library when a program
        starts, are the fork server's instead.
    """

    def __init__(self, arguments: Sequence[object], environment: Mapping[str, str]) -> None:
        descriptor, said = tempfile.mkstemp(prefix="said-")
        os.close(descriptor)
        self._said = Path(said)
        weakref.finalize(self, self._said.unlink, missing_ok=True)
        words = [str(argument) for argument in arguments]
        self._process = _CONTEXT.Process(target=_run, args=(words, dict(environment), self._said))
        self._process.start()
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs; of a process that a signal ended, minus its number."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL, unless it has ended."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended.

        Raises
        ------
        subprocess.TimeoutExpired
            It still runs after `timeout` seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("ingest", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Wait, and return what it wrote to stderr as the second of two."""
        self.wait(timeout)
        return None, self._said.read_text()


def _run(arguments: list[str], environment: dict[str, str], said: Path) -> None:
    """Be what ``python -m ingest`` would be, in a session of its own, as under a shell with job control."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with said.open("ab") as err, Path(os.devnull).open("wb") as out:
        os.dup2(err.fileno(), sys.stderr.fileno())
        os.dup2(out.fileno(), sys.stdout.fileno())
    main(arguments)
