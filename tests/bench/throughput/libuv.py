"""torch's rendezvous asks for libuv where it has no setting for that; Debian builds torch without."""

from __future__ import annotations

import importlib
from functools import partial

from torch.distributed import TCPStore

# By name: the package has a function `rendezvous` that hides the module.
_MODULES = ("torch.distributed.rendezvous", "torch.distributed.elastic.rendezvous.static_tcp_rendezvous")


def do_without() -> None:
    """Of the stores of torchrun and of its ranks, which training itself does not use."""
    for name in _MODULES:
        importlib.import_module(name).TCPStore = partial(TCPStore, use_libuv=False)
