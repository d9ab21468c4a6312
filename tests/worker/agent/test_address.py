"""Whether a name still leads where it led."""

from __future__ import annotations

import socket

import pytest

from muster_worker.agent.address import has_moved


@pytest.fixture
def resolves(monkeypatch):
    """Has every name lead to these addresses; an error where there are none."""

    def to(*addresses):
        def look_up(*_, **__):
            if not addresses:
                raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return to


@pytest.mark.parametrize(
    ("addresses", "moved"),
    [(["10.0.0.1"], False), (["10.0.0.2"], True), (["10.0.0.2", "10.0.0.1"], False), ([], False)],
    ids=["as before", "elsewhere", "both are there", "nobody can tell"],
)
def test_a_name_has_moved_when_it_leads_only_elsewhere(resolves, addresses, moved):
    resolves(*addresses)
    assert has_moved("digits-0.digits-workers", "10.0.0.1") is moved
    assert has_moved("digits-0.digits-workers", "::ffff:10.0.0.1") is moved


def test_an_address_never_moves(resolves):
    resolves("10.0.0.2")
    assert not has_moved("10.0.0.1", "10.0.0.1")
