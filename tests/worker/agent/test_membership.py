"""A member follows rank 0 to its successor, though the old one still answers."""

from __future__ import annotations

import socket
import time

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
    """Has a pod host a coordinator at this address; a port of 0 is any."""
    hosts = []

    def begin(address: str, port: int = 0, attempt: int = 1, job: str = "uid-1") -> AgentServer:
        desk = CoordinatorDesk(Coordinator("uid-1", 2, "c"))
        server = AgentServer((address, port), lambda: {"job": job, "podAttempt": attempt}, bytes, desk)
        server.start()
        hosts.append((server, desk))
        return server

    yield begin
    for server, desk in hosts:
        server.stop()
        desk.close()


@pytest.fixture
def leads(monkeypatch):
    """Has the name of rank 0 lead to this address from now on; it is looked up all the time."""
    monkeypatch.setattr(membership, "LOOK_OUT_EVERY", 0.05)
    look_up, where = socket.getaddrinfo, {"digits-0": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *rest, **more: look_up(where.get(name, name), *rest, **more)
    )
    return lambda address: where.update({"digits-0": address})


@pytest.fixture
def members():
    """Makes both members of the group whose coordinator is at this port of the name."""
    made = []

    def join(port: int) -> list[Membership]:
        made.extend(Membership(config(rank), ("digits-0", port), lambda _: None) for rank in (0, 1))
        for member in made:
            member.start()
            member.ask_to_join("127.0.0.1", 1, [])
        eventually(lambda: all(member.round for member in made), "the round")
        return made

    yield join
    for member in made:
        member.close()


def test_the_round_is_over_when_the_coordinators_name_leads_to_a_later_pod(host, leads, members):
    old = host("127.0.0.1", attempt=1)
    host("127.0.0.2", old.port, attempt=2)
    first, second = members(old.port)
    assert second.broken() is None
    leads("127.0.0.2")
    reason = eventually(second.broken, "the news")
    assert "is another pod than 127.0.0.1 now" in reason
    assert first.broken() is None, "rank 0 does not look out for itself"


@pytest.mark.parametrize(
    "there",
    [{"attempt": 1}, {"attempt": 3, "job": "uid-2"}, None],
    ids=["an earlier pod", "another job's pod", "nobody"],
)
def test_the_round_goes_on_when_the_coordinators_name_leads_to(there, host, leads, members):
    """As it does for a while where a name server comes back with the node that the earlier pod was lost with."""
    present = host("127.0.0.1", attempt=2)
    if there is not None:
        host("127.0.0.2", present.port, **there)
    _, second = members(present.port)
    leads("127.0.0.2")
    time.sleep(20 * membership.LOOK_OUT_EVERY)
    assert second.broken() is None


def test_who_waits_for_a_round_where_rank_0_was_asks_where_it_is_now(host, leads):
    """The old one, on a node whose kubelet hangs, would have it wait for ever."""
    old = host("127.0.0.1", attempt=1)
    new = host("127.0.0.2", old.port, attempt=2)
    member = Membership(config(1), ("digits-0", old.port), lambda _: None)
    member.start()
    member.ask_to_join("127.0.0.1", 1, [])
    eventually(lambda: known_to(old), "the old coordinator knows it")
    assert not known_to(new)
    leads("127.0.0.2")
    eventually(lambda: known_to(new), "the new coordinator knows it")
    member.close()


def known_to(server: AgentServer) -> bool:
    return bool(server.desk.consult(lambda group, now: group.seats(now)))
