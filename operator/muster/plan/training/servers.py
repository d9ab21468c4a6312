"""Parameter servers: the first ranks of a job whose strategy has them. The others are its workers, `spec.replicas`.

Servers hold one state together: when one is lost, all of them go back to the checkpoint. Workers hold none: when one is
lost the others go on, and its successor joins them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.api.resources import is_gpu
from muster.plan.training import identity

if TYPE_CHECKING:
    from muster.api import TrainingJob
    from muster.api.resources import Resources
    from muster.plan.training.view import View

PORT = 7071
SERVER, WORKER = "parameter-server", "worker"


def count(job: TrainingJob) -> int:
    """Return how many servers the job has; 0 where its strategy is another."""
    strategy = job.spec.strategy
    if strategy is None or strategy.type != "parameterServer":
        return 0
    return strategy.parameter_servers or 1


def size(job: TrainingJob) -> int:
    """Return how many pods the job has, servers and workers."""
    return count(job) + job.spec.replicas


def fewest(job: TrainingJob) -> int:
    """Return how many pods the job needs to train."""
    return count(job) + (job.spec.elastic.min_replicas if job.spec.elastic is not None else job.spec.replicas)


def most(job: TrainingJob) -> int:
    """Return how many pods the servers may have to do with, themselves included."""
    return count(job) + (job.spec.elastic.max_replicas if job.spec.elastic is not None else job.spec.replicas)


def role(job: TrainingJob, rank: int) -> str:
    """Return what the pod of this rank is: SERVER or WORKER."""
    return SERVER if rank < count(job) else WORKER


def addresses(job: TrainingJob) -> str:
    """Return where the servers listen: by names that their successors have, too."""
    names = (f"{job.metadata.name}-{rank}.{identity.group_name(job)}" for rank in range(count(job)))
    return ",".join(f"{name}:{PORT}" for name in names)


def without_devices(resources: Resources) -> dict[str, dict[str, str]]:
    """Return what a server gets of what a worker does: it only adds up gradients, and makes updates."""
    return resources.amounts(lambda name: not is_gpu(name))


def go_on(view: View) -> bool:
    """Whether the servers train with some workers, though others are missing."""
    if not view.servers or view.group.get("phase") not in {"Running", "Succeeded"}:
        return False
    return view.workers_running > 0 and all(
        member is not None and member.running for rank, member in view.workers.items() if rank < view.servers
    )
