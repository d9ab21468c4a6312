"""Makes the cluster ready for a run, and empties it after one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import yaml

from muster.client import PODS, SERVICES, Kind
from muster.control.kinds import TRAINING_JOBS
from tests.bench.api import Api, Refused
from tests.bench.jobs import NAMESPACE, SLICES, namespaces
from tests.bench.place import ROOT
from tests.bench.processes import LEASE_NAMESPACE
from tests.bench.waiting import until

if TYPE_CHECKING:
    from tests.bench.seen import Seen

_DEFINITIONS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "", namespaced=False)
_LIMIT = 600.0


async def prepare(api: Api) -> None:
    """The resource definitions, and namespaces with nothing in them."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        await api.apply(_DEFINITIONS, yaml.safe_load(file.read_text()))
    for name in (LEASE_NAMESPACE, *namespaces()):
        await api.apply(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    await until("the resource definitions are served", partial(_serves_jobs, api), _LIMIT)


async def empty(api: Api, seen: Seen) -> None:
    """Remove everything that was made of the jobs, and the jobs; return once nobody is busy with it."""
    # What is owned goes first: it would be the garbage collector's, one object after the other.
    for kind in (PODS, SERVICES, TRAINING_JOBS):
        await asyncio.gather(*(api.delete_all(kind, name) for name in namespaces()))
    await seen.until("everything is gone", lambda: not seen.pods and not seen.jobs, _LIMIT)
    await until("the endpoint slices are gone", partial(_no_slices, api), _LIMIT)
    await seen.quiet()


async def remove(api: Api) -> None:
    """Delete the namespaces, and what is in them."""
    await asyncio.gather(*(api.delete(NAMESPACE, name) for name in namespaces()))
    await until("the namespaces are gone", partial(_no_namespaces, api), _LIMIT)


async def _serves_jobs(api: Api) -> bool:
    try:
        await api.list(TRAINING_JOBS)
    except Refused:
        return False
    return True


async def _no_namespaces(api: Api) -> bool:
    there = {one["metadata"]["name"] for one in (await api.list(NAMESPACE))["items"]}
    return there.isdisjoint(namespaces())


async def _no_slices(api: Api) -> bool:
    return not (await api.list(SLICES, selector="app.kubernetes.io/managed-by=muster"))["items"]
