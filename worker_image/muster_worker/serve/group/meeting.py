"""How the ranks of a shard find each other for `torch.distributed`: at the first of them, and each time anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from muster_worker.agent.address import own_address
from muster_worker.serve.errors import causes
from muster_worker.train.process_group import avoid_missing_libuv

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from muster_worker.serve.group.layout import GroupConfig

_LOOPBACK = "127.0.0.1"


class Meeting:
    """Of the ranks of the shard that `rank` belongs to."""

    def __init__(self, group: GroupConfig, rank: int) -> None:
        avoid_missing_libuv()
        self._layout = layout = group.layout
        self._index = rank % layout.shard_size
        self._store: dist.TCPStore | None = None
        self.place: dict[str, Any] | None = None
        """Host and port where the others find this rank, for the front to tell; None: it is not the first."""
        if layout.pods == 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if self._index == 0:
            host = _LOOPBACK if layout.pods == 1 else own_address(group.leader or "")
            self._store = self._store_at(host, 0)
            self.place = {"host": host, "port": self._store.port}

    def attend(self, place: dict[str, Any], device: torch.device) -> DeviceMesh:
        """Its dimensions are `pipeline` and `tensor`; `place`: what the front told. Collective."""
        layout = self._layout
        store = self._store or self._store_at(place["host"], place["port"])
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=self._index, world_size=layout.shard_size)
        return init_device_mesh(device.type, (layout.pipeline, layout.tensor), mesh_dim_names=("pipeline", "tensor"))

    def _store_at(self, host: str, port: int) -> dist.TCPStore:
        return dist.TCPStore(
            host,
            port,
            self._layout.shard_size,
            is_master=self._index == 0,
            wait_for_workers=False,
            use_libuv=os.environ.get("USE_LIBUV") != "0",
        )


def is_of_a_peer(error: BaseException | None) -> bool:
    """Whether it was raised because another rank has gone, not by the model."""
    return any(isinstance(one, dist.DistError) or "gloo/" in str(one) for one in causes(error))
