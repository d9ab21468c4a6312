"""The store: forward only, right after a list, whatever came before it and in whatever order."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from muster.client import HTTP_ROUTES, NODES, PODS
from muster.control.kinds import TRAINING_JOBS, Controlled, Key
from muster.control.store import Store, version_of
from muster.plan.model import Admission, Plan, WorkerReport
from muster.plan.training import initial_model
from tests.unit.control.harness import node, owned

DIGITS = Key("TrainingJob", "research", "digits")


def a_store() -> Store:
    return Store([Controlled(TRAINING_JOBS, lambda *_: Plan())])


def resource(version: int = 1, uid: str = "u1", name: str = "digits") -> dict:
    meta = {"name": name, "namespace": "research", "uid": uid, "resourceVersion": str(version)}
    return {"apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": meta}


def pod(name: str = "p", version: int = 1, uid: str = "", owner: dict | None = None, **rest) -> dict:
    made = owned(owner or resource(), "Pod", name, **rest)
    made["metadata"] |= {"uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return made


def a_node(name: str, version: int, ready: str = "True", **rest) -> dict:
    made = node(name, ready) | rest
    made["metadata"] = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return made


def test_what_belongs_to_a_resource_is_found_by_the_uid_of_its_owner():
    store = a_store()
    assert store.put(TRAINING_JOBS, resource()) == {DIGITS}
    assert store.put(PODS, pod()) == {DIGITS}
    assert store.put(PODS, pod("stranger", owner=resource(uid="u0"))) == {DIGITS}
    observed = store.observe(DIGITS)
    assert [one["metadata"]["name"] for one in observed.pods] == ["p"]


def test_a_route_is_known_of_once_the_cluster_is_known_to_have_the_kind():
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    assert store.observe(DIGITS).routes is None
    store.follow(HTTP_ROUTES)
    assert store.observe(DIGITS).routes == ()
    made = owned(resource(), "HTTPRoute", "digits")
    made["metadata"] |= {"uid": "uid-route", "resourceVersion": "1"}
    assert store.put(HTTP_ROUTES, made) == {DIGITS}
    assert [one["metadata"]["name"] for one in store.observe(DIGITS).routes] == ["digits"]


def test_what_belongs_to_others_concerns_no_one():
    foreign = pod(owner=resource() | {"kind": "Job", "apiVersion": "batch/v1"})
    assert a_store().put(PODS, foreign) == set()


def test_an_older_version_never_replaces_a_newer_one():
    store = a_store()
    store.put(TRAINING_JOBS, resource(9))
    assert store.put(TRAINING_JOBS, resource(10)) == {DIGITS}
    assert store.put(TRAINING_JOBS, resource(9)) == set()
    assert store.put(TRAINING_JOBS, resource(10)) == set()
    assert store.resource(DIGITS)["metadata"]["resourceVersion"] == "10"


def test_what_was_deleted_does_not_come_back_with_a_late_answer():
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.remove(PODS, pod(version=5))  # the watch was faster than the answer to the create
    store.put(PODS, pod(version=3))
    assert store.observe(DIGITS).pods == ()


@pytest.mark.parametrize("told_by", ["watch", "list"])
def test_what_a_watch_or_a_list_had_lost_for_want_of_a_label_comes_back_with_a_later_version(told_by):
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod(version=3))
    if told_by == "watch":
        store.remove(PODS, pod(version=5), 5)
    else:
        store.correct(PODS, [], "5")
    store.put(PODS, pod(version=4))
    assert store.observe(DIGITS).pods == ()
    store.put(PODS, pod(version=6))
    assert [one["metadata"]["resourceVersion"] for one in store.observe(DIGITS).pods] == ["6"]


def test_a_new_object_of_the_same_name_is_another():
    store = a_store()
    store.put(TRAINING_JOBS, resource(1, "u1"))
    store.put(PODS, pod("p", 2, "old"))
    store.put(PODS, pod("p", 4, "new"))
    store.remove(PODS, pod("p", 3, "old"))
    assert [one["metadata"]["uid"] for one in store.observe(DIGITS).pods] == ["new"]


def test_a_resource_that_is_gone_is_not_observed_but_looked_at_once_more():
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    assert store.remove(TRAINING_JOBS, resource(2)) == {DIGITS}
    assert store.observe(DIGITS) is None


def test_who_set_which_field_is_not_kept_and_what_was_given_is_left_alone():
    store, given_pod = a_store(), pod()
    given_pod["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, given_pod)
    assert "managedFields" not in store.observe(DIGITS).pods[0]["metadata"]
    assert "managedFields" in given_pod["metadata"]


def test_which_image_a_container_has_is_kept():
    store, worker = a_store(), {"name": "worker", "image": "muster-worker:1"}
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod(spec={"containers": [worker | {"args": ["agent"]}]}))
    assert store.observe(DIGITS).pods[0]["spec"]["containers"] == [worker]


@pytest.mark.parametrize(
    ("before", "after", "concerned"),
    [
        ({}, {"ready": "Unknown"}, True),
        ({}, {"spec": {"unschedulable": True}}, True),
        ({}, {"spec": {"taints": [{"key": "node.kubernetes.io/unreachable"}]}}, True),
        ({}, {"extra": "something else"}, False),
    ],
)
def test_a_node_concerns_the_resources_with_pods_on_it_when_its_standing_changes(before, after, concerned):
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod(spec={"nodeName": "n1"}))
    store.put(NODES, a_node("n1", 1, **before))
    store.put(NODES, a_node("n2", 1))
    assert store.put(NODES, a_node("n1", 2, **after)) == ({DIGITS} if concerned else set())
    assert store.put(NODES, a_node("n2", 2, "False")) == set()
    assert store.observe(DIGITS).nodes["n1"]["metadata"]["resourceVersion"] == "2"


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.remove(PODS, pod("other", 9, owner=resource(uid="u2", name="other"))),
        lambda store: store.put(
            PODS, pod("other", 9, owner=resource(uid="u2", name="other"), status={"phase": "Succeeded"})
        ),
        lambda store: store.put(NODES, a_node("n3", 1)),
    ],
    ids=["a pod goes", "a pod ends", "a node comes"],
)
def test_that_room_may_have_come_free_is_told(change):
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod("other", 8, owner=resource(uid="u2", name="other")))
    told = []
    store.on_room_change = lambda: told.append(store.room_changes)
    counted = store.room_changes
    change(store)
    assert told == [counted + 1]


def test_a_report_goes_with_its_pod():
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod())
    store.put_report("uid-p", WorkerReport({"step": 1}, 1.0))
    store.put_report("uid-of-another", WorkerReport({"step": 2}, 1.0))
    assert store.observe(DIGITS).reports == {"uid-p": WorkerReport({"step": 1}, 1.0)}
    store.remove(PODS, pod(version=2))
    store.put_report("uid-p", WorkerReport({"step": 3}, 2.0))
    assert store.report("uid-p") is None


def test_an_answer_is_passed_on_only_to_whom_it_was_given():
    store, answer = a_store(), Admission(granted=True, reason="Admitted", message="there is room")
    store.put(TRAINING_JOBS, resource())
    assert store.observe(DIGITS).admission is None
    assert store.observe(DIGITS, answer).admission is answer


TEACHER = Key("TrainingJob", "research", "teacher")


def named_after(other):
    return resource() | {"spec": {"initialModel": {"fromTrainingJob": other}}}


def test_who_names_another_sees_it_and_is_looked_at_again_when_it_changes():
    store = Store([Controlled(TRAINING_JOBS, lambda *_: Plan(), initial_model.named)])
    store.put(TRAINING_JOBS, named_after("teacher"))
    assert store.observe(DIGITS).named == {}
    teacher = resource(name="teacher", uid="uid-t")
    both = {DIGITS, TEACHER}
    assert store.put(TRAINING_JOBS, teacher) == both
    assert store.observe(DIGITS).named == {("TrainingJob", "teacher"): teacher}
    assert store.remove(TRAINING_JOBS, teacher) == both
    assert store.observe(DIGITS).named == {}


def test_who_names_another_no_more_is_left_alone():
    store = Store([Controlled(TRAINING_JOBS, lambda *_: Plan(), initial_model.named)])
    store.put(TRAINING_JOBS, named_after("teacher"))
    store.remove(TRAINING_JOBS, named_after("teacher"))
    assert store.put(TRAINING_JOBS, resource(name="teacher", uid="uid-t")) == {TEACHER}


NAMES = ("a", "b", "c")


@st.composite
def histories(draw):
    """A true history of three pods, and what of it reached the store: in part, late, twice, out of order."""
    version, living, events = 0, {}, []
    for _ in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(NAMES))
        version += 1
        if name not in living:
            living[name] = pod(name, version, f"{name}-{version}")
            events.append(("put", living[name]))
        elif draw(st.booleans()):
            living[name] = pod(name, version, living[name]["metadata"]["uid"], status={"seen": version})
            events.append(("put", living[name]))
        else:
            gone = living.pop(name)
            events.append(("remove", pod(name, version, gone["metadata"]["uid"])))
    told = draw(st.lists(st.sampled_from(events), max_size=20))
    return told, list(living.values()), version


@given(histories())
@settings(max_examples=500, deadline=None)
def test_after_a_list_the_store_is_right_whatever_it_was_told_before(history):
    told, living, version = history
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    for what, manifest in told:
        if what == "put":
            store.put(PODS, manifest)
        else:
            store.remove(PODS, manifest, version_of(manifest))
    store.correct(PODS, living, str(version))
    known = {(one["metadata"]["uid"], one["metadata"]["resourceVersion"]) for one in store.observe(DIGITS).pods}
    assert known == {(one["metadata"]["uid"], one["metadata"]["resourceVersion"]) for one in living}
    keys, wrong = store.correct(PODS, living, str(version))
    assert (keys, wrong) == (set(), 0)


def test_what_was_made_after_the_list_was_taken_is_not_removed_by_it():
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod("new", version=8))
    store.put(PODS, pod("vanished", version=5))
    store.correct(PODS, [], "7")
    assert [one["metadata"]["name"] for one in store.observe(DIGITS).pods] == ["new"]


def test_a_list_of_one_namespace_says_nothing_of_another():
    store = a_store()
    store.put(TRAINING_JOBS, resource())
    store.put(PODS, pod())
    assert store.correct(PODS, [], "7", "elsewhere") == (set(), 0)
    assert store.correct(PODS, [], "7", "research") == ({DIGITS}, 1)
