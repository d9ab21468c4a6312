"""kopf's part: it carries events, nothing else. No state, no finalizers, no annotations, no posting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import kopf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from muster.client import Kind
    from muster.control.kinds import Watched


class Sink(Protocol):
    """Takes what the watches show."""

    def seen(self, kind: Kind, manifest: Mapping[str, Any]) -> None: ...
    def deleted(self, kind: Kind, manifest: Mapping[str, Any]) -> None: ...


def registry_for(
    watched: Sequence[Watched], sink: Sink, login: Callable[[], kopf.AiohttpSession]
) -> kopf.OperatorRegistry:
    """One handler a kind, each handing the raw object over."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def authenticate(**_: Any) -> kopf.AiohttpSession:
        return login()

    for one in watched:
        _register(registry, one.kind, sink)
    return registry


def _register(registry: kopf.OperatorRegistry, kind: Kind, sink: Sink) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)
    async def handle(event: Mapping[str, Any], **_: Any) -> None:
        take = sink.deleted if event["type"] == "DELETED" else sink.seen
        take(kind, event["object"])


class _NoDiffs(kopf.DiffBaseStorage):
    """Nothing asks what changed, yet kopf makes a deep copy of every object of every event to find out."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise NotImplementedError("handlers of events have no state")


def settings_for(watched: Sequence[Watched]) -> kopf.OperatorSettings:
    """Make kopf a carrier of events: it writes nothing and wants no rights but to list and watch."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Otherwise it watches all definitions and namespaces too, which a namespaced install may not.
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.inactivity_timeout = 70.0
    settings.watching.connect_timeout = 5.0
    settings.watching.server_timeout = 300  # kopf passes it on as it is, and the server takes no fraction
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30.0
    settings.networking.error_backoffs = (0.1, 0.5, 1.0, 2.0, 5.0)
    settings.queueing.exit_timeout = 0.2
    settings.queueing.idle_timeout = 1.0
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.diffbase_storage = _NoDiffs()
    for one in watched:
        if one.label:
            selectors = settings.watching.label_selectors
            selectors[one.kind.group, one.kind.version, one.kind.plural] = one.label
    return settings
