"""Chooses the provider: that of the cluster that is there, the one asked for, or the one that fits the machine."""

from local_cluster.checkout import Checkout
from local_cluster.errors import ClusterError
from local_cluster.images.engines import ContainerEngine
from local_cluster.kind_provider import KindProvider
from local_cluster.native import slots
from local_cluster.native.provider import NativeProvider
from local_cluster.provider import Provider


def existing(checkout: Checkout) -> Provider | None:
    """The provider of the cluster that there is, also of one that an earlier command left half-made."""
    record = checkout.read_record()
    if record is None:
        return NativeProvider(checkout) if slots.slot_of(checkout) else None
    return NativeProvider(checkout) if record["provider"] == "native" else _kind(checkout)


def for_new_cluster(checkout: Checkout, asked: str | None) -> Provider:
    present = existing(checkout)
    if present is not None:
        if asked not in (None, present.name):
            raise ClusterError(f"a {present.name} cluster is there: run `down` before you start one with {asked}")
        return present
    if asked == "native" or (asked is None and _engine() is None):
        return NativeProvider(checkout)
    return _kind(checkout)


def _kind(checkout: Checkout) -> KindProvider:
    engine = _engine()
    if engine is None:
        raise ClusterError("kind needs Docker or Podman: neither answers; start one, or use --provider native")
    return KindProvider(checkout, engine)


def _engine() -> ContainerEngine | None:
    return next((engine for name in ("docker", "podman") if (engine := ContainerEngine(name)).works()), None)
