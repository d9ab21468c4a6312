"""Makes the cluster ready for a run, and empties it after one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import yaml

from muster.client import Kind
from tests.bench.api import Api, Refused
from tests.bench.jobs import NAMESPACE, SLICES, namespaces
from tests.bench.systems.system import LEASE_NAMESPACE
from tests.bench.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.seen import Seen
    from tests.bench.systems.system import System

_DEFINITIONS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "", namespaced=False)
_LIMIT = 600.0
# Written in C: the definitions of the others are long.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


async def prepare(api: Api) -> None:
    """The namespaces; those that an earlier run left are waited for until they are gone."""
    await until("what an earlier run left is gone", partial(_none_terminates, api), _LIMIT)
    for name in (LEASE_NAMESPACE, *namespaces()):
        await api.apply(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


async def define(api: Api, system: System) -> None:
    """The system's resource definitions."""
    for file in system.definitions():
        await api.apply(_DEFINITIONS, _definition(file))
    await until(f"the resource definitions of {system.name} are served", partial(_serves, api, system.jobs), _LIMIT)


async def empty(api: Api, seen: Seen) -> None:
    """Remove everything that was made of the jobs, and the jobs; return once nobody is busy with it."""
    for kind in seen.system.made:
        await asyncio.gather(*(api.delete_all(kind, name) for name in namespaces()))
    await seen.until("everything is gone", lambda: not seen.pods and not seen.jobs, _LIMIT)
    await until("the endpoint slices are gone", partial(_no_slices, api), _LIMIT)
    await seen.quiet()


async def remove(api: Api, guests: Iterable[System]) -> None:
    """Have the namespaces deleted, and what is in them, and the resource definitions of those other than Muster."""
    names = [_definition(file)["metadata"]["name"] for guest in guests for file in guest.definitions()]
    await asyncio.gather(
        *(api.delete(NAMESPACE, name) for name in namespaces()), *(api.delete(_DEFINITIONS, name) for name in names)
    )


async def gone(api: Api) -> None:
    """Return once the namespaces are."""
    await until("the namespaces are gone", partial(_no_namespaces, api), _LIMIT)


def _definition(file: Path) -> dict:
    return yaml.load(file.read_text(), Loader=_LOADER)


async def _serves(api: Api, kind: Kind) -> bool:
    try:
        await api.list(kind)
    except Refused:
        return False
    return True


async def _none_terminates(api: Api) -> bool:
    there = (await api.list(NAMESPACE))["items"]
    return not any(one["status"]["phase"] == "Terminating" for one in there if one["metadata"]["name"] in namespaces())


async def _no_namespaces(api: Api) -> bool:
    there = {one["metadata"]["name"] for one in (await api.list(NAMESPACE))["items"]}
    return there.isdisjoint(namespaces())


async def _no_slices(api: Api) -> bool:
    slices = (await api.list(SLICES))["items"]
    return not any(one["metadata"]["namespace"] in namespaces() for one in slices)
