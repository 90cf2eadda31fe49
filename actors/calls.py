"""Questions to Ray about calls under way that never block, and the end of an actor."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, RayError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray import ObjectRef
    from ray.actor import ActorHandle

__all__ = ["error_of", "kill", "settled"]


def settled(calls: Iterable[ObjectRef[Any]]) -> set[ObjectRef[Any]]:
    """Return those of `calls` that have a value or an error by now."""
    wanted = list(calls)
    if not wanted:
        return set()
    ready, _ = ray.wait(wanted, num_returns=len(wanted), timeout=0, fetch_local=False)
    return set(ready)


def error_of(call: ObjectRef[Any]) -> RayError | None:
    """Return the error of a settled `call`, None when it has a value."""
    try:
        ray.get(call)
    except RayError as error:
        return error
    return None


def kill(actor: ActorHandle[Any]) -> None:
    """End `actor` at once, whatever it does; one that is gone already is no error.

    The calls it has under way fail with ``ActorDiedError`` within milliseconds, even when its process is frozen
    (the raylet ends that one some 5 s later).
    """
    if ray.is_initialized():
        with contextlib.suppress(ActorDiedError, ValueError):
            ray.kill(actor, no_restart=True)
