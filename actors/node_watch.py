"""What is known of the nodes: whether any lives, which have gone, and which are about to."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from actors.blame import any_node_is_alive, draining_nodes, judge, node_is_alive
from ingest.errors import TransientError

if TYPE_CHECKING:
    from ray.exceptions import RayError

    from actors.blame import Verdict
    from actors.worker import WorkerPlace

__all__ = ["NodeWatch"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_LIFELESS_S = 10.0
"""How long no node may live before the pool gives up: a head that is being replaced comes back sooner."""


class NodeWatch:
    """Ask Ray about its nodes, every two seconds at most."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        """Nodes that a worker was seen to go with: Ray gives no id twice."""
        self.leaving: frozenset[str] = frozenset()
        """Nodes that are about to go."""
        self._last_life = time.monotonic()
        self._next_life_look = self._next_leaving_look = self._last_life

    def look_for_life(self, now: float, *, has_workers: bool) -> None:
        """Notice that Ray itself has died: it would let new workers wait for ever.

        Raises
        ------
        TransientError
            Kind ``ray-lost``.
        """
        if has_workers:
            self._last_life = now
        elif now >= self._next_life_look:
            self._next_life_look = now + _LOOK_EVERY_S
            if any_node_is_alive():
                self._last_life = now
            elif now - self._last_life > _LIFELESS_S:
                raise TransientError(
                    "Ray has no node left: the local Ray, or the head of the cluster, has died",
                    kind="ray-lost",
                    hint="run the same command again; what was committed is kept",
                )

    def look_who_leaves(self, now: float) -> None:
        """Notice nodes that are called back."""
        if now < self._next_leaving_look:
            return
        self._next_leaving_look = now + _LOOK_EVERY_S
        leaving = draining_nodes()
        for node in leaving - self.leaving:
            _log.info("node %s is about to go: its workers finish the chunk in hand", node[:8])
        self.leaving = leaving

    def judge(self, error: RayError, place: WorkerPlace) -> Verdict:
        """Say what became of the worker at `place`; a node that it went with counts as lost from then on.

        A node that leaves ends its workers first and counts as living a while longer.
        """
        gone = self.lost | self.leaving
        verdict = judge(error, place, lambda node: node not in gone and node_is_alive(node))
        if verdict.kind == "node-lost":
            self.lost.add(place.node_id)
        return verdict
