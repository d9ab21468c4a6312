"""Where a name leads that once led elsewhere."""

from __future__ import annotations

import socket

import pytest

from muster_worker.agent.address import leads_elsewhere


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
    ("addresses", "elsewhere"),
    [
        (["10.0.0.1"], ()),
        (["::ffff:10.0.0.2"], ("10.0.0.2",)),
        (["10.0.0.3", "10.0.0.2"], ("10.0.0.2", "10.0.0.3")),
        (["10.0.0.2", "10.0.0.1"], ()),
        ([], ()),
    ],
    ids=["as before", "elsewhere", "to two others", "both are there", "nobody can tell"],
)
def test_a_name_leads_elsewhere_when_it_does_not_lead_where_it_did(resolves, addresses, elsewhere):
    resolves(*addresses)
    assert leads_elsewhere("digits-0.digits-workers", "10.0.0.1") == elsewhere
    assert leads_elsewhere("digits-0.digits-workers", "::ffff:10.0.0.1") == elsewhere


def test_an_address_never_moves(resolves):
    resolves("10.0.0.2")
    assert leads_elsewhere("10.0.0.1", "10.0.0.1") == ()
