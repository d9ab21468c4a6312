"""Compares the store with full lists: at the start, after every gap of a watch, and every few minutes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from functools import partial
from typing import TYPE_CHECKING

import structlog

from muster.client import ApiError, Client, Invalid, Listing, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from muster.control.kinds import Key, Watched
    from muster.control.observability import Metrics
    from muster.control.store import Store

log = structlog.stdlib.get_logger(__name__)

_SETTLE = 0.5  # seconds: one list of the watch library follows the other, and one comparison serves several


class Resync:
    """Keeps the store from being wrong for long."""

    def __init__(
        self,
        client: Client,
        store: Store,
        watched: Sequence[Watched],
        *,
        namespaces: Sequence[str],
        enqueue: Callable[[Iterable[Key]], None],
        metrics: Metrics,
        every: float = 180.0,
    ) -> None:
        self._client, self._store, self._enqueue, self._metrics = client, store, enqueue, metrics
        # The controlled resources come first, so that what is listed for them is never older than they are.
        self._watched, self._every = list(watched), every
        self._may_be_gone: set[str] = set()
        self.on_gone: Callable[[Watched], None] = lambda _: None
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._closed: set[str | None] = set()
        self.on_opened: Callable[[], None] = lambda: None
        self._wanted: set[str] = set()
        self._asked = asyncio.Event()
        self.synced = asyncio.Event()

    @property
    def watched(self) -> tuple[Watched, ...]:
        """What is compared, and is to be watched."""
        return tuple(self._watched)

    def ask(self, plural: str) -> None:
        """Have the objects of one kind compared soon: its watch was begun anew."""
        if any(plural == one.kind.plural for one in self._watched):
            self._wanted.add(plural)
            self._asked.set()

    async def add(self, one: Watched) -> bool:
        """Compare this kind, too, from now on and now; it may be gone one day. Raises an `ApiError`.

        Returns whether it is served: a definition is there a moment before the API server serves what it defines, and
        may do without this version of it.
        """
        try:
            await self._compare(one)
        except NotFound:
            return False
        if one not in self._watched:
            self._may_be_gone.add(one.kind.kind)
            self._watched.append(one)
        return True

    async def first(self) -> None:
        """Fill the store, waiting for as long as it takes for the API server and our own kinds to be there."""
        pause = 0.5
        while True:
            try:
                await self.compare()
            except NotFound as error:
                log.warning("waiting for the custom resource definitions to be installed", error=str(error))
            except ApiError as error:
                log.warning("waiting for the API server", error=str(error))
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10.0)

    async def run(self) -> None:
        """Compare whenever asked, and all kinds every few minutes."""
        while True:
            wait = self._every * random.uniform(0.9, 1.1)  # noqa: S311
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._asked.wait()
            if self._asked.is_set():
                await asyncio.sleep(_SETTLE)
            only, self._wanted = self._wanted or None, set()
            self._asked.clear()
            try:
                await self.compare(only)
            except ApiError as error:
                log.warning("comparing with the API server failed", error=str(error))
                await asyncio.sleep(1.0)
                self._wanted |= only or {one.kind.plural for one in self._watched}
                self._asked.set()

    async def compare(self, only: set[str] | None = None) -> None:
        """Make the store agree with what is; raises an `ApiError` when a list fails."""
        for one in tuple(self._watched):
            if only is not None and one.kind.plural not in only:
                continue
            try:
                await self._compare(one)
            except NotFound:
                if one.kind.kind not in self._may_be_gone:
                    raise
                self._watched.remove(one)
                self.on_gone(one)
        if only is None:
            self.synced.set()

    async def _compare(self, one: Watched) -> None:
        refused: list[Invalid] = []
        namespaces = self._namespaces if one.kind.namespaced else (None,)
        for namespace in namespaces:
            try:
                listing = await self._list(one, namespace)
            except Invalid as error:
                if not await self._is_closed(namespace):
                    raise
                refused.append(error)
                continue
            keys, wrong = self._store.correct(one.kind, listing.items, listing.resource_version, namespace)
            if wrong and self.synced.is_set():
                self._metrics.corrections.labels(one.kind.kind).inc(wrong)
                log.info("corrected what was known", kind=one.kind.kind, objects=wrong)
            self._enqueue(keys)
            if namespace in self._closed:
                self._closed.discard(namespace)
                self.on_opened()
        if len(refused) == len(namespaces):
            raise refused[0]

    async def _list(self, one: Watched, namespace: str | None) -> Listing:
        each = partial(self._store.known, one.kind)
        return await self._client.list(one.kind, namespace, label_selector=one.label, each=each)

    async def _is_closed(self, namespace: str | None) -> bool:
        """Whether nothing of one of several namespaces may be read: whoever deletes it deletes our rights with it.

        What is known of it stays as it is, and the others go on. Where a part of it may be read, that would be taken
        for the whole.
        """
        if namespace is None:
            return False
        for one in self._watched:
            with contextlib.suppress(Invalid):
                if one.kind.namespaced:
                    await self._list(one, namespace)
                    return False
        if namespace not in self._closed:
            log.warning("this namespace may not be read: is it gone?", namespace=namespace)
            self._closed.add(namespace)
        return True
