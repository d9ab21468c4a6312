"""The floor: creates what the resources that it is told of are made of, and does nothing else.

`python -m tests.bench.floor` says that it is ready, then reads one resource a line, as the API server answered its
creation.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from muster.api import ModelDeployment, TrainingJob
from muster.client import BUDGETS, PODS, REVISIONS, SERVICES
from muster.plan.model import Settings
from muster.plan.serving import pods, revisions
from muster.plan.serving.model import find
from muster.plan.trained_model import Missing
from muster.plan.training.pods import build_pod, build_service
from tests.bench.api import Api

SETTINGS = Settings(worker_image="worker")


async def main() -> None:
    """Read until the end of the input; what was begun is finished."""
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with await Api.connect() as api, asyncio.TaskGroup() as tasks:
        print("ready", flush=True)
        async for line in lines:
            tasks.create_task(create(api, json.loads(line)))


async def create(api: Api, resource: dict[str, Any]) -> None:
    kinds = {"TrainingJob": create_job, "ModelDeployment": create_deployment}
    await kinds[resource["kind"]](api, resource)


async def create_job(api: Api, resource: dict[str, Any]) -> None:
    job = TrainingJob.model_validate(resource)
    await api.create(SERVICES, build_service(job))
    async with asyncio.TaskGroup() as tasks:
        for rank in range(job.spec.replicas):
            tasks.create_task(api.create(PODS, build_pod(job, SETTINGS, rank, attempt=1)))


async def create_deployment(api: Api, resource: dict[str, Any]) -> None:
    """Without the readiness gate, of which only Muster knows."""
    deployment = ModelDeployment.model_validate(resource)
    model = find(deployment, {})
    assert not isinstance(model, Missing), model
    revision = revisions.new(deployment, model, SETTINGS, {})
    groups = deployment.spec.replicas
    made = [pod for group in range(groups) for pod in pods.build_group(deployment, revision, group, 1 + group)]
    await api.create(SERVICES, pods.build_service(deployment))
    await api.create(SERVICES, pods.build_groups_service(deployment))
    await api.create(BUDGETS, pods.build_budget(deployment, len(made)))
    await api.create(REVISIONS, revisions.build(deployment, revision))
    async with asyncio.TaskGroup() as tasks:
        for pod in made:
            del pod["spec"]["readinessGates"]
            tasks.create_task(api.create(PODS, pod))


if __name__ == "__main__":
    asyncio.run(main())
