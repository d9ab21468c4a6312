"""Leader election by a Lease: at most one operator writes.

The rules that make it safe, all by clocks that never jump, none by comparing clocks of two machines:

- The leader may write for `writes` seconds, counted from *before* it sent its last renewal that was accepted.
- Another takes the lease only after it saw the very same record for `lasts` seconds, which is more, counted
  from *after* it was answered for the first time.
- Every write goes through the `Fence`: refused when the time is over, given up when it ends meanwhile.

So a leader that is cut off, frozen or slow stops by itself before anyone else begins. Losing the lease costs
nothing else: what is observed stays observed, only nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from muster.client import (
    FIELD_MANAGER,
    LEASES,
    AlreadyExists,
    ApiError,
    Client,
    Conflict,
    Kind,
    Listing,
    NotFound,
    Object,
    Only,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

log = structlog.stdlib.get_logger(__name__)


def steady_clock() -> float:
    """Seconds that go on while the machine sleeps: a leader that slept must know that its time is over."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class NotLeading(Exception):  # noqa: N818
    """No leave to write, or none any more."""


class Fence:
    """Open while this process may write."""

    def __init__(self, clock: Callable[[], float] = steady_clock, *, until: float = float("-inf")) -> None:
        self._clock, self._until = clock, until

    @property
    def is_open(self) -> bool:
        return self._clock() < self._until

    @property
    def seconds_left(self) -> float:
        return self._until - self._clock()

    def open_until(self, until: float) -> None:
        self._until = until

    def close(self) -> None:
        self._until = float("-inf")

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Run a block only while the fence is open; it is cancelled when the time ends within it."""
        left = self.seconds_left
        if left <= 0:
            raise NotLeading("another operator may be leading by now")
        try:
            async with asyncio.timeout(left if left != float("inf") else None) as limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise NotLeading("the lease could not be renewed before the write was answered") from None
            raise


class FencedClient:
    """A client whose every write passes the fence."""

    def __init__(self, client: Client, fence: Fence) -> None:
        self._client, self._fence = client, fence

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        return await self._client.get(kind, namespace, name)

    async def exists(self, kind: Kind, namespace: str | None, name: str) -> bool:
        return await self._client.exists(kind, namespace, name)

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        each: Callable[[Object], Object] | None = None,
    ) -> Listing:
        return await self._client.list(
            kind, namespace, label_selector=label_selector, field_selector=field_selector, each=each
        )

    async def create(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        async with self._fence.held():
            return await self._client.create(kind, manifest)

    async def replace(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        async with self._fence.held():
            return await self._client.replace(kind, manifest)

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> Object:
        async with self._fence.held():
            return await self._client.apply(kind, manifest, force=force)

    async def apply_status(self, kind: Kind, manifest: Mapping[str, Any], *, owner: str = FIELD_MANAGER) -> Object:
        async with self._fence.held():
            return await self._client.apply_status(kind, manifest, owner=owner)

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, only: Only, grace_seconds: int | None = None
    ) -> Object:
        async with self._fence.held():
            return await self._client.delete(kind, namespace, name, only=only, grace_seconds=grace_seconds)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. `lasts`: what others wait for; `writes`: how long the leader goes on after a renewal."""

    lasts: int = 10
    writes: float = 8.0
    renew_every: float = 2.0
    call: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.renew_every + self.call < self.writes < self.lasts:
            raise ValueError("wanted: renew_every + call < writes < lasts, or the lease is lost or shared")


class Elector:
    """Takes the Lease, renews it, keeps the fence open meanwhile. `leading` and `following` are events."""

    def __init__(
        self,
        client: Client,
        fence: Fence,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = steady_clock,
    ) -> None:
        self._client, self._fence, self._clock = client, fence, clock
        self._namespace, self._name, self._identity = namespace, name, identity
        self._times = times or LeaseTimes()
        self._own: Object | None = None  # the record of our last accepted write, while it is the last known
        self._seen: tuple[object, float] | None = None  # another's record, and since when it is unchanged
        self.leading = asyncio.Event()
        self.following = asyncio.Event()
        self.following.set()

    async def run(self) -> None:
        """Take part in the election until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._times.call):
                    await self._round()
            except TimeoutError:
                log.warning("lease call unanswered", lease=self._name, limit=self._times.call)
            except ApiError as error:
                log.warning("lease call failed", lease=self._name, error=str(error))
            self._announce()
            await asyncio.sleep(self._pause())

    async def release(self) -> None:
        """Give the lease up, so that another need not wait for its end. Nothing may be writing any more."""
        was_open = self._fence.is_open
        self._fence.close()
        self.leading.clear()
        self.following.set()
        if not was_open:
            return
        try:
            async with asyncio.timeout(min(1.0, self._times.call)):
                await self._give_up()
        except (TimeoutError, ApiError) as error:
            log.warning("lease not released, it runs out by itself", lease=self._name, error=str(error))
        else:
            log.info("lease released", lease=self._name)

    async def _give_up(self) -> None:
        """Write the lease without a holder; again when our own last renewal, cut short, came in between."""
        for last in (False, True):
            lease = await self._client.get(LEASES, self._namespace, self._name)
            if lease.get("spec", {}).get("holderIdentity") != self._identity:
                return
            try:
                await self._client.replace(LEASES, self._record(lease, holder="", lasts=1))
            except Conflict:
                if last:
                    raise
            else:
                return

    def _pause(self) -> float:
        """Leaders renew at their own pace but never past the fence; others look at random, not in step."""
        if self._fence.is_open:
            return max(0.05, min(self._times.renew_every, self._fence.seconds_left))
        return self._times.renew_every * random.uniform(0.8, 1.2)  # noqa: S311

    def _announce(self) -> None:
        if self._fence.is_open and not self.leading.is_set():
            log.info("leading", lease=self._name, identity=self._identity)
            self.following.clear()
            self.leading.set()
        elif not self._fence.is_open and self.leading.is_set():
            log.warning("not leading any more", lease=self._name, identity=self._identity)
            self.leading.clear()
            self.following.set()

    async def _round(self) -> None:
        """One attempt to renew or to take the lease; returns normally when it belongs to another."""
        started = self._clock()
        try:
            self._own = await self._write()
        except (Conflict, NotFound):  # someone else wrote or removed it: look anew the next time
            self._own = None
            raise
        if self._own is not None:
            self._fence.open_until(started + self._times.writes)

    async def _write(self) -> Object | None:
        if self._own is not None:
            return await self._client.replace(LEASES, self._record(self._own, holder=self._identity))
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
        except NotFound:
            return await self._create()
        if not self._may_take(lease):
            return None
        self._seen = None
        return await self._client.replace(LEASES, self._record(lease, holder=self._identity))

    async def _create(self) -> Object | None:
        meta = {"name": self._name, "namespace": self._namespace}
        blank = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta}
        try:
            return await self._client.create(LEASES, self._record(blank, holder=self._identity))
        except AlreadyExists:  # another was first: seen the next time
            return None

    def _may_take(self, lease: Object) -> bool:
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity")
        if not holder or holder == self._identity:
            return True
        now = self._clock()
        record = (holder, spec.get("renewTime"), lease["metadata"].get("resourceVersion"))
        if self._seen is None or self._seen[0] != record:
            self._seen = (record, now)
            return False
        return now - self._seen[1] > max(self._times.lasts, spec.get("leaseDurationSeconds") or 0)

    def _record(self, lease: Object, *, holder: str, lasts: int | None = None) -> Object:
        spec = dict(lease.get("spec") or {})
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if holder and spec.get("holderIdentity") != holder:
            spec["acquireTime"] = stamp
            spec["leaseTransitions"] = spec.get("leaseTransitions", -1) + 1
        spec |= {
            "holderIdentity": holder,
            "leaseDurationSeconds": lasts or self._times.lasts,
            "renewTime": stamp,
        }
        return {**lease, "spec": spec}
