"""Carries a plan out: deletes, applies, creates, parts of others' status, what is besides, events, and the status last.

It knows nothing of what a plan means. Whatever fails ends it there: the next look starts from what is then.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from muster.client import (
    AUTOSCALERS,
    BUDGETS,
    COSCHEDULING_GROUPS,
    EVENTS,
    HTTP_ROUTES,
    PODS,
    REVISIONS,
    SERVICES,
    VOLCANO_GROUPS,
    WORKLOADS,
    AlreadyExists,
    ApiError,
    Client,
    Conflict,
    Invalid,
    Kind,
    NotFound,
    Only,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from muster.control.store import Store
    from muster.plan.model import Delete, Event, Observed, Plan, StatusPart

T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)

_KINDS = {kind.kind: kind for kind in (AUTOSCALERS, BUDGETS, HTTP_ROUTES, PODS, REVISIONS, SERVICES, WORKLOADS)}
_UNWATCHED = {kind.api_version: kind for kind in (COSCHEDULING_GROUPS, VOLCANO_GROUPS)}
"""What is applied and never looked at again: it does not enter the store, which would never hear of its end."""
_AT_ONCE = 16  # writes in flight for one resource: a gang starts together, and no one else is crowded out
_NOTE = 1024  # bytes the API allows in an event's note


class Stale(Exception):  # noqa: N818
    """The plan was made from something that is no longer true: look again."""


class Refused(Exception):  # noqa: N818
    """Something will not be made as it is: the API server refuses it, or its name belongs to something else.

    `besides`: it was the last of what there was to do, but for events and the status.
    """

    besides = False


class Executor:
    """Writes plans through a client, and puts every answer into the store at once."""

    def __init__(self, client: Client, store: Store, *, reporter: str, identity: str) -> None:
        self._client, self._store = client, store
        self._reporter, self._identity = reporter, identity

    async def execute(self, kind: Kind, observed: Observed, plan: Plan) -> bool:
        """Carry the plan out; returns whether anything came of it.

        Nothing does of what the API server answers without a change, as it may again and again: webhooks have the last
        word.

        Raises `Stale` when the resource changed since it was observed, `Refused`, or an `ApiError`.
        """
        resource = observed.resource
        if plan.creates or plan.deletes:
            await self._assure_fresh(kind, resource)
        await _all(self._delete(_KINDS.get(delete.kind, kind), resource, delete) for delete in plan.deletes)
        changed = await _all(self._apply(resource, manifest) for manifest in plan.applies)
        await _all(self._create(resource, manifest) for manifest in plan.creates)
        changed += await _all(self._apply_part(part) for part in plan.parts)
        try:
            changed += await _all(self._apply(resource, manifest) for manifest in plan.besides)
        except Refused as refused:
            refused.besides = True
            raise
        await _all(self._tell(kind, resource, event) for event in plan.events)
        changed.append(await self._write_status(kind, resource, plan.status))
        return any(changed) or bool(plan.deletes or plan.creates)

    async def _assure_fresh(self, kind: Kind, resource: Mapping[str, Any]) -> None:
        """A stale store must never make a pod twice, nor delete one for a resource that has changed."""
        meta = resource["metadata"]
        try:
            fresh = await self._client.get(kind, meta.get("namespace"), meta["name"])
        except NotFound:
            self._store.remove(kind, resource)
            raise Stale("the resource is gone") from None
        if fresh["metadata"]["resourceVersion"] != meta["resourceVersion"]:
            if fresh["metadata"]["uid"] != meta["uid"]:
                self._store.remove(kind, resource)
            self._store.put(kind, fresh)
            raise Stale("the resource has changed")

    async def _apply(self, resource: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """What is not known to be the resource's own is not taken over from whoever made it."""
        unwatched = _UNWATCHED.get(manifest["apiVersion"])
        kind = unwatched or _KINDS[manifest["kind"]]
        is_own = unwatched is not None or self._store.owns(resource, kind, manifest)
        try:
            answer = await self._client.apply(kind, manifest, force=is_own)
        except Conflict:
            if not is_own:
                await self._look_whose(resource, kind, manifest)
            raise
        except Invalid as error:
            raise Refused(f"{kind.kind} {manifest['metadata']['name']}: {error.message}") from error
        return unwatched is None and bool(self._store.put(kind, answer))

    async def _apply_part(self, part: StatusPart) -> bool:
        kind, meta = _KINDS[part.manifest["kind"]], part.manifest["metadata"]
        try:
            return bool(self._store.put(kind, await self._client.apply_status(kind, part.manifest, owner=part.owner)))
        except NotFound:
            self._store.remove(kind, part.manifest)
            raise Stale(f"{kind.kind} {meta['name']} is gone") from None
        except Conflict:
            await self._look_after_conflict(kind, part.manifest)
            raise

    async def _delete(self, kind: Kind, resource: Mapping[str, Any], delete: Delete) -> None:
        namespace = resource["metadata"].get("namespace")
        gone = {"metadata": {"namespace": namespace or "", "name": delete.name, "uid": delete.uid}}
        only = Only(delete.uid, delete.resource_version)
        try:
            answer = await self._client.delete(
                kind, namespace, delete.name, only=only, grace_seconds=delete.grace_seconds
            )
        except NotFound:
            self._store.remove(kind, gone)
            return
        except Conflict:
            await self._look_after_conflict(kind, gone)
            return
        if _lives_on(answer):
            self._store.put(kind, answer)
        else:
            self._store.remove(kind, gone)

    async def _look_after_conflict(self, kind: Kind, meant: Mapping[str, Any]) -> None:
        """Raise `Stale` if what was to be deleted has changed; else it is gone, whatever bears its name."""
        meta = meant["metadata"]
        try:
            fresh = await self._client.get(kind, meta["namespace"], meta["name"])
        except NotFound:
            fresh = None
        if fresh is not None and fresh["metadata"]["uid"] == meta["uid"]:
            self._store.put(kind, fresh)
            raise Stale(f"{kind.kind} {meta['name']} has changed")
        self._store.remove(kind, meant)

    async def _create(self, resource: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        kind = _KINDS[manifest["kind"]]
        try:
            made = await self._client.create(kind, manifest)
        except AlreadyExists:
            await self._look_whose(resource, kind, manifest)
        except Invalid as error:
            raise Refused(error.message) from error
        else:
            self._store.put(kind, made)

    async def _look_whose(self, resource: Mapping[str, Any], kind: Kind, manifest: Mapping[str, Any]) -> None:
        """Take note of what bears the name; raise `Refused` unless it belongs to the resource."""
        there = await self._client.get(kind, manifest["metadata"].get("namespace"), manifest["metadata"]["name"])
        owners = {owner["uid"] for owner in there["metadata"].get("ownerReferences") or ()}
        if resource["metadata"]["uid"] not in owners:
            what = f"{kind.kind} {there['metadata']['name']}"
            if "deletionTimestamp" in there["metadata"]:
                raise Refused(f"{what} of an earlier resource is still on its way out: this waits until it is gone")
            raise Refused(
                f"{what} exists and belongs to something else: delete it, or give the resource another name"
            ) from None
        self._store.put(kind, there)

    async def _write_status(self, kind: Kind, resource: Mapping[str, Any], status: Mapping[str, Any] | None) -> bool:
        if status is None or status == resource.get("status"):
            return False
        meta = resource["metadata"]
        manifest = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {
                "name": meta["name"],
                "namespace": meta.get("namespace"),
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "status": status,
        }
        try:
            return bool(self._store.put(kind, await self._client.apply_status(kind, manifest)))
        except Conflict:
            await self._assure_fresh(kind, resource)
            raise

    async def _tell(self, kind: Kind, resource: Mapping[str, Any], event: Event) -> None:
        """Write an event. Its name follows from what it says and of which version of the resource.

        So a plan that is carried out again after a failure does not say everything twice. That an event cannot
        be written never stops anything.
        """
        meta = resource["metadata"]
        content = "\0".join((meta["uid"], meta["resourceVersion"], event.type, event.reason, event.message))
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        manifest = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta.get("namespace")},
            "eventTime": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": _shortened(event.message),
            "reportingController": self._reporter,
            "reportingInstance": self._identity[:128],
            "regarding": {
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "namespace": meta.get("namespace"),
                "name": meta["name"],
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
        }
        try:
            await self._client.create(EVENTS, manifest)
        except AlreadyExists:
            return
        except ApiError as error:
            log.warning("event not written", name=meta["name"], reason=event.reason, error=str(error))


def _lives_on(answer: Mapping[str, Any]) -> bool:
    """Whether a deleted object is there for a while yet, as the answer to its deletion shows it."""
    meta = answer.get("metadata", {})
    return bool(meta.get("deletionTimestamp")) and bool(
        meta.get("deletionGracePeriodSeconds") or meta.get("finalizers")
    )


def _shortened(message: str) -> str:
    raw = message.encode()
    if len(raw) <= _NOTE:
        return message
    return raw[: _NOTE - 3].decode(errors="ignore") + "…"


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Await all of them, some at once; when some fail, the others are still finished, then one is raised."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Awaitable[T]) -> T:
        async with room:
            return await call

    results = await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)
    # A task that someone else cancelled (kopf does that to all it finds, at its end) is a failure, not success.
    if failures := [result for result in results if isinstance(result, BaseException)]:
        failure = failures[0]
        raise Stale("a write was interrupted") if isinstance(failure, asyncio.CancelledError) else failure
    return [result for result in results if not isinstance(result, BaseException)]
