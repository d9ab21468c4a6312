"""The processes of one pod of a group: the leader's has the front, and every pod has its ranks."""

from __future__ import annotations

import importlib
import signal
import threading
from typing import TYPE_CHECKING

import uvloop

from muster_worker.serve.group.rank import HEEDED, Rank
from muster_worker.serve.group.service import MemberService
from muster_worker.serve.listening import http_server
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.supervisor import Part

if TYPE_CHECKING:
    import socket

    from muster_worker.serve.group.layout import GroupConfig
    from muster_worker.serve.server import ServeConfig
    from muster_worker.serve.supervisor import Death, Told


def ranks(config: ServeConfig, group: GroupConfig, listening: socket.socket) -> list[Part]:
    """Those of this pod. Away from the front, the first of them tells on `listening` how the group is."""
    if group.layout.shard_size > 1:
        importlib.import_module("muster_worker.serve.group.parallel")  # takes a second, which no rank has to pay
    first, *others = group.layout.ranks_of(group.pod)
    parts = [_rank(config, group, rank) for rank in others]
    if group.leads:
        return [_rank(config, group, first), *parts]

    def run(death: Death | None, told: Told) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)  # in the thread too, that the rank hears them
        service = MemberService(config.name, config.limits, Metrics(), group, first)
        http = http_server(service)
        threading.Thread(target=uvloop.run, args=(http.serve([listening]),), daemon=True, name="http").start()
        return Rank(config, group, first, service.hear).run(death, told)

    return [Part(f"rank {first}", run, lasting=True), *parts]


def _rank(config: ServeConfig, group: GroupConfig, rank: int) -> Part:
    return Part(f"rank {rank}", Rank(config, group, rank).run, hears=not group.leads, lasting=True)
