"""Where checkpoints and models are kept."""

from muster.api.base import Model
from muster.api.names import ObjectName, RelativePath
from muster.api.quantity import Quantity
from muster.api.rules import Rule


class PersistentVolumeClaim(Model):
    """An existing claim in the same namespace, shared by all workers."""

    claim_name: ObjectName
    """The claim's name. With several workers it should be ReadWriteMany: they may be on different nodes."""


class EphemeralVolume(Model):
    """A volume of each pod's own, made with it and deleted with it, like a fast disk of its node.

    A pod that replaces a lost one gets the newest checkpoint from the others. What all of them had is gone when all
    pods are: with a suspension, or when `podCleanup` removes them.
    """

    storage_class_name: ObjectName | None = None
    """The StorageClass, for example one of local NVMe disks. Absent: the cluster's default."""
    size: Quantity
    """How large the volume is, for example 50Gi."""


class Storage(Model):
    """Where checkpoints and the trained model are kept.

    Absent: on a scratch volume of each pod, and gone with it.
    """

    rules = (
        Rule(
            cel="has(self.persistentVolumeClaim) != has(self.ephemeral)",
            holds=lambda storage: (storage.persistent_volume_claim is None) != (storage.ephemeral is None),
            message="write exactly one of persistentVolumeClaim and ephemeral",
        ),
    )

    persistent_volume_claim: PersistentVolumeClaim | None = None
    ephemeral: EphemeralVolume | None = None
    path: RelativePath | None = None
    """The directory on the volume, made when it does not exist, for example `models/digits`. Absent: the root.

    Jobs that share a claim need a directory each, or they resume from one another's checkpoints.
    """
