"""Before the first step, every pod's device and its links to others are measured, by the network that is asked for."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("pods", [1, 2, 3, 4, 5])
def test_of_each_pod_there_are_figures(start_ranks, tmp_path, pods):
    storages = [tmp_path / f"storage-{pod}" for pod in range(pods)]
    group = start_ranks(storages, pods, config={"epochs": 1})
    assert group.wait() == [0] * pods, group.output()
    (found,) = [line["preflight"] for line in group.reports() if "preflight" in line]
    assert [one["rank"] for one in found] == list(range(pods))
    for one in found:
        assert one["flops"] > 1e8
        assert ("latency" in one, "bandwidth" in one) == (pods > 1, pods > 1)
        if pods > 1:
            assert 0 < one["latency"] < 1
            assert one["bandwidth"] > 1e7


def test_of_several_ranks_in_a_pod_the_first_speaks(start_ranks, tmp_path):
    group = start_ranks(tmp_path / "storage", 3, config={"epochs": 1})
    assert group.wait() == [0] * 3, group.output()
    assert [[one["rank"] for one in line["preflight"]] for line in group.reports() if "preflight" in line] == [[0]]


def test_an_interface_that_is_not_there_is_told_with_those_that_are(start_ranks, tmp_path):
    group = start_ranks(tmp_path / "storage", 2, GLOO_SOCKET_IFNAME="net9")
    assert group.wait() == [2, 2]
    assert "spec.network.interface: found net9, wanted one that the pod has: " in group.output()
