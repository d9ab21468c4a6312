"""How many processes of a group have died, whoever tells of them, and what is known of the last."""

from __future__ import annotations

import pytest

from muster_worker.serve.group.deaths import Deaths
from muster_worker.serve.supervisor import Death


def test_nobody_has_died_at_first():
    assert Deaths(None).last() is None


def test_a_death_that_was_seen_is_explained_by_the_successor_and_counted_once():
    deaths = Deaths(None)
    deaths.saw(3)
    seen = deaths.last()
    assert (seen["count"], seen["rank"], seen["exitCode"], seen["seconds"]) == (1, 3, None, None)
    deaths.told(3, Death(1, 137, 1.0))
    deaths.overcome()
    last = deaths.last()
    assert (last["count"], last["exitCode"], last["diedAt"]) == (1, 137, seen["diedAt"])
    assert last["seconds"] == pytest.approx(0, abs=5)


def test_a_death_that_nobody_saw_is_told_by_the_successor():
    deaths = Deaths(None)
    deaths.told(1, Death(1, 9, 50.0))
    last = deaths.last()
    assert (last["count"], last["rank"], last["exitCode"], last["diedAt"]) == (1, 1, 9, 50.0)


def test_the_next_front_knows_of_its_own_and_of_those_that_the_ranks_tell():
    deaths = Deaths(Death(2, 137, 100.0))
    deaths.told(0, Death(3, 1, 40.0))
    last = deaths.last()
    assert (last["count"], last["rank"], last["diedAt"]) == (5, None, 100.0)


def test_a_pod_that_is_started_anew_has_forgotten_what_the_front_has_not():
    deaths = Deaths(None)
    for _ in range(3):
        deaths.saw(1)
    deaths.told(1, Death(1, 7, 10.0))
    assert (deaths.last()["count"], deaths.last()["exitCode"]) == (3, 7)


def test_how_long_it_took_is_not_counted_on():
    deaths = Deaths(Death(1, 137, 100.0))
    deaths.overcome()
    first = deaths.last()["seconds"]
    deaths.overcome()
    assert deaths.last()["seconds"] == first
