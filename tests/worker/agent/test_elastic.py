"""The order in which an agent stops its ranks, joins the next round and starts them again."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from muster_worker.agent.config import AgentConfig, Recipe
from muster_worker.agent.elastic import GroupAgent, Moments


@pytest.fixture
def calls():
    return []


@pytest.fixture
def agent(calls, tmp_path):
    """A `GroupAgent` of one pod whose parts write down when they are called."""
    config = AgentConfig.from_environment(
        {"MUSTER_JOB_UID": "uid-1", "MUSTER_POD": "digits-0-1", "MUSTER_RANK": "0", "MUSTER_STORAGE": str(tmp_path)},
        Recipe("recipe:Class"),
    )

    def join():
        calls.append("join")
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 1))

    return GroupAgent(
        config,
        SimpleNamespace(next_rendezvous=join, failures=[], get_run_id=lambda: config.job, get_backend=lambda: "muster"),
        SimpleNamespace(round=None, broken=lambda: None, hung=False),
        SimpleNamespace(ranks={}, stop=lambda *_: calls.append("stop"), start=lambda *_: calls.append("start")),
        Moments(*(partial(calls.append, name) for name in ("before start", "after start", "after stop"))),
        patience=lambda: 0.0,
        say=lambda _: None,
    )


def test_the_last_words_of_the_ranks_are_taken_in_before_the_pod_joins_the_next_round(agent, calls):
    agent._restart_workers(agent._worker_group)
    assert calls == ["stop", "after stop", "join", "before start", "start"]
