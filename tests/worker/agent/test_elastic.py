"""The order in which an agent stops its ranks, joins the next round and starts them again."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from muster_worker.agent import failures
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


@pytest.mark.parametrize(
    ("code", "said", "secondary"),
    [
        (1, "RuntimeError: [10.0.0.2]:3301: Connection closed by peer", True),
        (1, "KeyError: 'images'", False),
        (2, "train.py: error: unrecognized arguments: --timeout 5", False),
        (2, "error: spec.recipe: the connection timed out in the past: wanted another server", False),
    ],
)
def test_whoever_ends_for_a_peer_is_told_from_whoever_was_written_wrongly(code, said, secondary):
    failure = failures.explain(0, "digits-0-1", code, [said], {2})
    assert (failure.secondary, failure.permanent) == (secondary, code == 2)
    assert failure.message == f"rank 0 ended with exit code {code}: {said}"
