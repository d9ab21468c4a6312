"""Where a name leads that once led elsewhere."""

from __future__ import annotations

import socket
import time

import pytest

from muster_worker.agent.address import leads_elsewhere, look_up


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


def test_a_look_up_that_gets_no_answer_is_made_once_more_beside_it(monkeypatch):
    asked = []

    def look_up_here(*_, **__):
        asked.append(time.monotonic())
        if len(asked) == 1:
            time.sleep(5)  # led to a name server that is lost
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    begun = time.monotonic()
    assert look_up("digits-serve-0-1.digits-groups") == "10.0.0.1"
    assert len(asked) == 2
    assert time.monotonic() - begun < 5


def test_a_name_that_leads_nowhere_is_an_error(resolves):
    resolves()
    with pytest.raises(OSError, match="no name server answers"):
        look_up("digits-serve-0-1.digits-groups")
