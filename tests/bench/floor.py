"""The floor: creates the Services and pods of the jobs that it is told of, and does nothing else.

`python -m tests.bench.floor` says that it is ready, then reads one TrainingJob a line, as the API server answered
its creation.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from muster.api import TrainingJob
from muster.client import PODS, SERVICES
from muster.plan.model import Settings
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
    job = TrainingJob.model_validate(resource)
    await api.create(SERVICES, build_service(job))
    async with asyncio.TaskGroup() as tasks:
        for rank in range(job.spec.replicas):
            tasks.create_task(api.create(PODS, build_pod(job, SETTINGS, rank, attempt=1)))


if __name__ == "__main__":
    asyncio.run(main())
