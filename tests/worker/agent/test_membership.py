"""A member follows rank 0 to its successor, though the old one still answers."""

from __future__ import annotations

import pytest

from muster_worker.agent import membership
from muster_worker.agent.config import AgentConfig, Recipe
from muster_worker.agent.coordinator import Coordinator
from muster_worker.agent.membership import Membership
from muster_worker.agent.server import AgentServer, CoordinatorDesk
from tests.worker.agent.group import eventually


def config(rank: int) -> AgentConfig:
    environment = {"MUSTER_JOB_UID": "uid-1", "MUSTER_POD": f"digits-{rank}-1", "MUSTER_RANK": str(rank),
                   "MUSTER_REPLICAS": "2", "MUSTER_COORDINATOR": "localhost:1"}  # fmt: skip
    return AgentConfig.from_environment(environment, Recipe("recipe:Class"))


@pytest.fixture
def coordinator():
    desk = CoordinatorDesk(Coordinator("uid-1", 2, "c"))
    server = AgentServer(("127.0.0.1", 0), dict, bytes, desk)
    server.start()
    yield server
    server.stop()
    desk.close()


def test_the_round_is_over_when_the_coordinators_name_leads_to_another_pod(coordinator, monkeypatch):
    moved = []
    monkeypatch.setattr(membership, "LOOK_OUT_EVERY", 0.05)
    monkeypatch.setattr(membership, "has_moved", lambda name, address: bool(moved) and address == "127.0.0.1")
    members = [Membership(config(rank), ("127.0.0.1", coordinator.port), lambda _: None) for rank in (0, 1)]
    for member in members:
        member.start()
        member.ask_to_join("127.0.0.1", 1, [])
    eventually(lambda: all(member.round for member in members), "the round")
    assert members[1].broken() is None
    moved.append(True)
    reason = eventually(members[1].broken, "the news")
    assert "is another pod than 127.0.0.1 now" in reason
    assert members[0].broken() is None, "rank 0 does not look out for itself"
    for member in members:
        member.close()
