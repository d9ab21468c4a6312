"""A member follows rank 0 to its successor, though the old one still answers."""

from __future__ import annotations

import socket

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
def host():
    """Begins to host a coordinator at this address; a port of 0 is any."""
    hosts = []

    def begin(address: str, port: int = 0) -> AgentServer:
        desk = CoordinatorDesk(Coordinator("uid-1", 2, "c"))
        server = AgentServer((address, port), dict, bytes, desk)
        server.start()
        hosts.append((server, desk))
        return server

    yield begin
    for server, desk in hosts:
        server.stop()
        desk.close()


@pytest.fixture
def coordinator(host):
    return host("127.0.0.1")


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


def test_who_waits_for_a_round_where_rank_0_was_asks_where_it_is_now(host, monkeypatch):
    """The old one, on a node whose kubelet hangs, would have it wait for ever."""
    where = "127.0.0.1"
    look_up = socket.getaddrinfo

    def look_up_here(name, *rest, **more):
        return look_up(where if name == "digits-0" else name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    monkeypatch.setattr(membership, "LOOK_OUT_EVERY", 0.05)
    old = host("127.0.0.1")
    new = host("127.0.0.2", old.port)
    member = Membership(config(1), ("digits-0", old.port), lambda _: None)
    member.start()
    member.ask_to_join("127.0.0.1", 1, [])
    eventually(lambda: known_to(old), "the old coordinator knows it")
    assert not known_to(new)
    where = "127.0.0.2"
    eventually(lambda: known_to(new), "the new coordinator knows it")
    member.close()


def known_to(server: AgentServer) -> bool:
    return bool(server.desk.consult(lambda group, now: group.seats(now)))
