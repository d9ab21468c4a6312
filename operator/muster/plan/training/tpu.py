"""TPUs: what libtpu has to be told of a slice, the hosts whose chips have a network of their own.

Each host of a slice is one pod of the job, so ranks of pods are the numbers of its hosts. What kind of slice it is and
how its chips are laid out (TPU_ACCELERATOR_TYPE, TPU_HOST_BOUNDS, ...) the node's device plugin says. Ports and which
chip is whose torch_xla derives for each process: said here for a whole pod, they would be the same for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.plan.training import identity

if TYPE_CHECKING:
    from muster.api import TrainingJob


def environment(job: TrainingJob, rank: int) -> dict[str, str]:
    """Return what a pod is told beside what all are; nothing where it has no TPUs and does not compute by XLA."""
    if not job.spec.resources.tpus:
        return {"PJRT_DEVICE": "CPU"} if job.spec.on_xla else {}
    told = {"PJRT_DEVICE": "TPU"}
    if job.spec.replicas > 1:
        hosts = (f"{job.metadata.name}-{one}.{identity.group_name(job)}" for one in range(job.spec.replicas))
        told |= {"TPU_WORKER_ID": str(rank), "TPU_WORKER_HOSTNAMES": ",".join(hosts)}
    return told
