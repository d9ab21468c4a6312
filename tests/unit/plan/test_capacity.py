import pytest

from muster.plan.requests import wanted
from tests.unit.plan.fixtures import node, room


def asks(gpus=1, cpu="1", **spec):
    return {"containers": [{"resources": {"limits": {"nvidia.com/gpu": gpus, "cpu": cpu}}}]} | spec


def running(gpus, on="node-1", phase="Running"):
    return {"metadata": {"name": "other"}, "spec": asks(gpus) | {"nodeName": on}, "status": {"phase": phase}}


def waiting(gpus, **spec):
    return {"metadata": {"name": "other"}, "spec": wanted(asks(gpus, **spec)), "status": {"phase": "Pending"}}


@pytest.mark.parametrize(
    ("others", "fits"),
    [
        ([], 12),
        ([running(4)], 8),
        ([running(4, phase="Succeeded")], 12),
        ([running(4, phase="Failed")], 12),
        ([waiting(4)], 8),
        ([running(3), waiting(2)], 7),
        ([running(4, "node-1"), running(4, "node-2"), running(4, "node-3")], 0),
        ([waiting(5)], 12),
        ([waiting(4, schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])], 12),
    ],
    ids=[
        "nothing runs", "four are taken", "the succeeded take nothing", "the failed take nothing",
        "unplaced pods hold room", "placed and unplaced", "all is taken", "what can never be placed holds nothing",
        "what is kept from the scheduler holds nothing",
    ],
)  # fmt: skip
def test_counts_what_everybody_took(others, fits):
    assert room(*others).place([asks()] * 20)[0] == fits


@pytest.mark.parametrize(
    ("whole", "fits"),
    [
        ({"requests": {"cpu": "8"}}, 3),
        ({"requests": {"cpu": "2"}, "limits": {"cpu": "8"}}, 12),
        ({"limits": {"cpu": "8"}}, 12),
        ({"limits": {"memory": "16Gi"}}, 3),
    ],
    ids=["more than its containers", "less than its limit", "its containers say less", "a limit alone"],
)
def test_what_a_pod_asks_for_as_a_whole_goes_before_what_its_containers_do(whole, fits):
    """The containers ask for a CPU each, on nodes of eight and of 16Gi."""
    one = asks(gpus=0, resources=whole)
    assert room().place([one] * 12)[0] == fits
    others = [{"metadata": {"name": "other"}, "spec": wanted(one | {"nodeName": "node-1"}), "status": {}}]
    assert room(*others).place([asks(gpus=0, cpu="8")] * 3)[0] == 2


@pytest.mark.parametrize("nothing", [{"resources": None}, {"resources": {"limits": None, "requests": None}}], ids=str)
def test_null_is_nothing(nothing):
    assert room().place([asks(initContainers=[{"name": "first"} | nothing])] * 20)[0] == 12


def test_what_no_empty_cluster_could_hold_has_no_place_ever():
    assert room().empty().place([asks(gpus=5)])[0] == 0


def test_what_has_no_place_now_may_have_one_once_others_have_gone():
    capacity = room(running(1))
    assert (capacity.place([asks(gpus=4)] * 3)[0], capacity.empty().place([asks(gpus=4)] * 3)[0]) == (2, 3)


def test_a_place_is_given_once():
    placed, left = room().place([asks()] * 5)
    assert (placed, left.place([asks()] * 20)[0], room().place([asks()] * 20)[0]) == (5, 7, 12)


@pytest.mark.parametrize(
    ("unfit", "spec"),
    [
        (node("n", ready="False"), {}),
        (node("n", ready="Unknown"), {}),
        (node("n", unschedulable=True), {}),
        (node("n", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]), {}),
        (
            node("n", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]),
            {"tolerations": [{"key": "k", "value": "w"}]},
        ),
        (node("n", gpus=0), {}),
        (node("n"), {"nodeSelector": {"disk": "nvme"}}),
    ],
    ids=[
        "not ready",
        "unreachable",
        "cordoned",
        "tainted",
        "another taint tolerated",
        "no gpu",
        "not selected",
    ],
)
def test_a_node_that_takes_no_such_pod_is_no_room(unfit, spec):
    assert room(of=(unfit,)).place([asks(**spec)])[0] == 0


def requires(**term):
    terms = {"nodeSelectorTerms": [term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


@pytest.mark.parametrize(
    ("key", "operator", "values", "fits"),
    [
        ("disk", "In", ["nvme", "ssd"], True), ("disk", "In", ["hdd"], False), ("none", "In", ["nvme"], False),
        ("disk", "NotIn", ["hdd"], True), ("disk", "NotIn", ["nvme"], False), ("none", "NotIn", ["nvme"], True),
        ("disk", "Exists", [], True), ("none", "Exists", [], False),
        ("disk", "DoesNotExist", [], False), ("none", "DoesNotExist", [], True),
        ("cores", "Gt", ["7"], True), ("cores", "Gt", ["8"], False), ("none", "Gt", ["0"], False),
        ("cores", "Lt", ["9"], True), ("disk", "Lt", ["9"], False),
    ],
)  # fmt: skip
def test_node_affinity_is_heeded(key, operator, values, fits):
    labelled = node("n")
    labelled["metadata"]["labels"] |= {"disk": "nvme", "cores": "8"}
    requirement = {"key": key, "operator": operator, "values": values}
    asked = asks(affinity=requires(matchExpressions=[requirement]))
    assert room(of=(labelled,)).place([asked])[0] == fits


def test_a_node_that_a_pod_is_kept_off_is_no_room_for_it_though_the_next_pod_may_have_it():
    """As after a preflight: the scheduler would place no pod there, and all would be taken back."""
    keeps_off = requires(matchFields=[{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}])
    capacity = room(of=(node("node-1"), node("node-2")))
    assert capacity.place([asks(gpus=4, affinity=keeps_off)] * 2)[0] == 1
    assert capacity.place([asks(gpus=4, affinity=keeps_off), asks(gpus=4)])[0] == 2


def test_a_term_of_affinity_that_says_nothing_names_no_node():
    assert room().place([asks(affinity=requires())])[0] == 0


@pytest.mark.parametrize(
    "toleration", [{"key": "k", "value": "v"}, {"key": "k", "operator": "Exists"}, {"operator": "Exists"}]
)
def test_a_tolerated_taint_is_no_hindrance(toleration):
    tainted = node("n", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    assert room(of=(tainted,)).place([asks(tolerations=[toleration])])[0] == 1


def test_a_taint_that_only_prefers_is_no_hindrance():
    tainted = node("n", taints=[{"key": "k", "effect": "PreferNoSchedule"}])
    assert room(of=(tainted,)).place([asks()])[0] == 1


def test_the_largest_init_container_counts_where_it_is_larger():
    spec = asks(gpus=1) | {"initContainers": [{"resources": {"requests": {"nvidia.com/gpu": 3}}}]}
    assert room().place([spec] * 9)[0] == 3


def test_a_sidecar_counts_beside_the_containers():
    sidecar = {"restartPolicy": "Always", "resources": {"requests": {"nvidia.com/gpu": 1}}}
    assert room().place([asks(gpus=1) | {"initContainers": [sidecar]}] * 9)[0] == 6


def test_pods_without_devices_leave_those_to_who_asks_for_them():
    """Servers come first, and of the nodes the one with GPUs does; either has room for one pod."""
    capacity = room(of=(node("a-gpu", gpus=1), node("b-cpu", gpus=0)))
    placed, left = capacity.place([asks(gpus=0, cpu="6"), asks(gpus=1, cpu="6")])
    assert placed == 2
    assert left.place([asks(gpus=0, cpu="6")])[0] == 0


def test_where_not_all_have_a_place_the_first_have_one():
    capacity = room(of=(node("a-gpu", gpus=1),))
    placed, left = capacity.place([asks(gpus=0, cpu="6"), asks(gpus=1, cpu="6")])
    assert (placed, left.free["a-gpu"]["nvidia.com/gpu"]) == (1, 1)
