"""The ports that tests are given."""

import multiprocessing

from tests.ports import free_ports


def test_none_is_given_twice_until_all_were_and_none_to_two_runs_at_once():
    given = [port for _ in range(100) for port in free_ports(3)]
    assert len(set(given)) == 300
    with multiprocessing.get_context("spawn").Pool(2) as others:
        taken = others.map(free_ports, [100, 100], chunksize=1)
        for ports in taken:
            assert set(ports).isdisjoint(given)
