"""The deployment as a whole: its model, what is beside the pods, what is measured, what is wrong."""

from __future__ import annotations

import pytest

from muster.plan.model import Refusal, Settings
from tests.unit.plan.fixtures import NOW, job
from tests.unit.plan.serving.fixtures import answered, decide, deployment, known, made, pod, revision, said
from tests.unit.plan.serving.simulated import Simulated

ONE = revision()
SHA, OTHER = "a" * 64, "b" * 64


def trained(**status):
    storage = {"persistentVolumeClaim": {"claimName": "models"}, "path": "digits"}
    complete = {"type": "Complete", "status": "True"}
    whole = {"conditions": [complete], "model": {"path": "model", "sha256": SHA}} | status
    return {("TrainingJob", "digits"): job(storage=storage) | {"status": whole}}


FROM_JOB = {"model": {"fromTrainingJob": "digits"}}


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({}, "TrainingJobNotFound"),
        (trained(conditions=[], phase="Running"), "WaitingForModel"),
        (trained(conditions=[{"type": "Failed", "status": "True"}]), "ModelMissing"),
        (trained(model={}), "ModelMissing"),
    ],
    ids=["no job", "trains", "failed", "no model"],
)
def test_it_waits_for_its_model_and_says_for_what(named, reason):
    answer = decide(deployment(**FROM_JOB), named=named)
    assert (answer.status["phase"], answer.status["reason"], made(answer)) == ("Pending", reason, [])
    assert said(answer) == {"Servable": "False", "UpToDate": "False", "Ready": "Unknown", "Progressing": "True"}
    assert answer.status["message"].startswith("spec.model.fromTrainingJob: ")


def test_the_model_is_mounted_and_must_be_the_jobs():
    answer = decide(deployment(**FROM_JOB), named=trained())
    (container,) = answer.creates[0]["spec"]["containers"]
    assert f"--sha256={SHA}" in container["args"]
    mount = next(one for one in container["volumeMounts"] if one["name"] == "storage")
    assert mount == {"name": "storage", "mountPath": "/muster/model", "readOnly": True, "subPath": "digits/model"}
    assert answer.status["model"] == {
        "fromTrainingJob": "digits", "claimName": "models", "path": "digits/model", "sha256": SHA,
    }  # fmt: skip


def test_a_model_from_elsewhere_is_fetched_by_each_pod_to_a_place_of_its_own():
    answer = decide(deployment(model={"uri": "s3://models/digits", "sha256": SHA}))
    spec = answer.creates[0]["spec"]
    (container,) = spec["containers"]
    assert {"--fetch=s3://models/digits", f"--sha256={SHA}"} <= set(container["args"])
    mount = next(one for one in container["volumeMounts"] if one["name"] == "storage")
    assert mount == {"name": "storage", "mountPath": "/muster/model", "readOnly": False}
    assert {"name": "storage", "emptyDir": {}} in spec["volumes"]
    assert answer.status["model"] == {"uri": "s3://models/digits", "sha256": SHA}


def test_a_model_from_elsewhere_is_kept_on_its_node_where_the_operator_is_told_to_and_by_revisions_made_then():
    settings = Settings(worker_image="muster-worker:test", model_cache="/var/lib/models")

    def cached(answer):
        spec = answer.creates[0]["spec"]
        (container,) = spec["containers"]
        kept = {"name": "muster-cache", "hostPath": {"path": "/var/lib/models", "type": "DirectoryOrCreate"}} in spec[
            "volumes"
        ]
        assert ("--cache=/muster/cache" in container["args"]) == kept
        assert ({"name": "muster-cache", "mountPath": "/muster/cache"} in container["volumeMounts"]) == kept
        return kept

    fetched = deployment(model={"uri": "s3://models/digits"})
    assert cached(decide(fetched, settings=settings))
    assert not cached(decide(fetched))
    assert not cached(decide(deployment(), settings=settings)), "what is on a volume is fetched by nobody"
    (kept,) = (one for one in decide(fetched, settings=settings).applies if one["kind"] == "ControllerRevision")
    assert cached(decide(fetched, revisions=(kept | {"metadata": kept["metadata"] | {"uid": "uid-1"}},)))


def test_another_checksum_than_the_jobs_is_a_mistake_that_is_told():
    answer = decide(deployment(model={"fromTrainingJob": "digits", "sha256": "b" * 64}), named=trained())
    assert (answer.status["reason"], made(answer)) == ("WrongChecksum", [])
    assert SHA in answer.status["message"]


def test_what_the_job_makes_later_changes_nothing_until_the_spec_does():
    first = decide(deployment(**FROM_JOB), named=trained())
    (kept,) = (one for one in first.applies if one["kind"] == "ControllerRevision")
    kept = kept | {"metadata": kept["metadata"] | {"uid": "u"}}
    there = tuple(pod(group, group + 1, kept) for group in range(2))
    newer = trained(model={"path": "model", "sha256": "c" * 64})
    answer = decide(deployment(known(kept), **FROM_JOB), *there, revisions=(kept,), named=newer)
    assert made(answer) == []
    changed = FROM_JOB | {"rollout": {"restart": "follow"}}
    answer = decide(deployment(known(kept), **changed), *there, revisions=(kept,), named=newer)
    assert f"--sha256={'c' * 64}" in answer.creates[0]["spec"]["containers"][0]["args"]


def test_while_the_model_of_a_new_spec_is_not_there_the_old_one_is_served():
    there = (pod(0, 1, ONE), pod(1, 2, ONE))
    answer = decide(deployment(known(ONE), **FROM_JOB), *there, revisions=(ONE,))
    assert (made(answer), answer.status["phase"], answer.status["reason"]) == ([], "RollingOut", "TrainingJobNotFound")
    assert said(answer) == {"Servable": "True", "UpToDate": "False", "Ready": "Unknown", "Progressing": "True"}


def test_an_operator_that_would_take_another_image_changes_nothing():
    other = ONE | {"data": ONE["data"] | {"image": "muster-worker:older"}}
    answer = decide(deployment(known(other)), pod(0, 1, other), revisions=(other,))
    assert [one["spec"]["containers"][0]["image"] for one in answer.creates] == ["muster-worker:older"]


def test_a_service_that_somebody_changed_is_put_right():
    first = decide(deployment())
    frame = {one["kind"]: one for one in (*first.applies, *first.besides)}
    there = {"revisions": (ONE,), "budgets": (frame["PodDisruptionBudget"],)}
    pods = (pod(0, 1, ONE), pod(1, 2, ONE))
    assert decide(deployment(known(ONE)), *pods, services=(frame["Service"],), **there).applies == ()
    wrong = frame["Service"] | {"spec": frame["Service"]["spec"] | {"selector": {"app": "mine"}}}
    assert [one["kind"] for one in decide(deployment(known(ONE)), *pods, services=(wrong,), **there).applies] == [
        "Service"
    ]


def test_what_clients_see_is_put_together_from_all_groups():
    pods = (pod(0, 1, ONE), pod(1, 2, ONE))
    slow = answered(requestsPerSecond=30.0, errorRate=0.02, latencyP99=0.05)
    reports = {"uid-digits-serve-0-1": answered(), "uid-digits-serve-1-2": slow}
    answer = decide(deployment(known(ONE)), *pods, revisions=(ONE,), reports=reports)
    assert answer.status["metrics"] == {
        "requestsPerSecond": "40", "errorRate": "0.015", "latencyP50Milliseconds": "2", "latencyP99Milliseconds": "50",
    }  # fmt: skip
    assert [(target.pod_uid, target.port) for target in answer.scrape] == [(uid, 8080) for uid in reports]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (SHA, ""),
        (OTHER, f", but not with the same model: write the one that is meant into spec.model.sha256: {SHA} or {OTHER}"),
    ],
)
def test_groups_that_have_different_models_are_told_of(other, told):
    reports = {
        uid: answered(model={"version": sha256[:12], "sha256": sha256})
        for uid, sha256 in {"uid-digits-serve-0-1": SHA, "uid-digits-serve-1-2": other}.items()
    }
    answer = decide(deployment(known(ONE)), pod(0, 1, ONE), pod(1, 2, ONE), revisions=(ONE,), reports=reports)
    assert (answer.status["phase"], answer.status["message"]) == ("Ready", f"2 groups answer{told}")


def test_a_spec_that_this_version_does_not_know_is_told_and_nothing_is_touched():
    there = (pod(0, 1, ONE), pod(1, 2, ONE))
    answer = decide(deployment(known(ONE), runtim="torch"), *there, revisions=(ONE,))
    assert (answer.creates, answer.deletes, answer.status["reason"]) == ((), (), "InvalidSpec")
    assert answer.status["message"] == "spec.runtim: there is no such field: did you mean runtime?"
    assert decide(deployment(answer.status, runtim="torch"), *there, revisions=(ONE,)).status is None


def test_a_refused_autoscaler_is_told_and_keeps_no_lost_group_from_being_replaced():
    refusal = Refusal("HorizontalPodAutoscaler digits exists and belongs to something else", at=NOW - 1, besides=True)
    scaled = deployment(known(ONE), autoscaling={"maxReplicas": 4, "target": "50"})
    answer = decide(scaled, pod(0, 1, ONE), pod(1, 2, ONE, phase="Failed"), revisions=(ONE,), refusal=refusal)
    assert ([group for group, _ in made(answer)], answer.besides, answer.look_again) == ([1], (), 1.0)
    assert "belongs to something else" in answer.status["message"]
    again = decide(scaled, pod(0, 1, ONE), pod(2, 3, ONE), revisions=(ONE,), refusal=refusal, now=NOW + 2)
    assert "HorizontalPodAutoscaler" in {one["kind"] for one in again.besides}
    assert "refused" not in again.status["message"]


def test_a_group_that_is_lost_later_does_not_wait_for_what_was_refused_before():
    """The quota has refused another group again and again, so that it is tried every two minutes only."""
    refusal = Refusal("exceeded quota", NOW - 1, times=7)
    there = pod(0, 1, ONE), pod(1, 2, ONE, phase="Failed")
    first = decide(deployment(known(ONE)), *there, revisions=(ONE,), refusal=refusal)
    assert (made(first), first.status["failovers"][0]["cause"]) == ([], "PodFailed"), "recorded first"
    again = decide(deployment(first.status), *there, revisions=(ONE,), refusal=refusal, now=NOW + 0.1)
    assert [group for group, _ in made(again)] == [1]
    refused = Refusal("exceeded quota", NOW + 0.2, times=8)
    later = decide(deployment(first.status), *there, revisions=(ONE,), refusal=refused, now=NOW + 0.3)
    assert made(later) == []
    assert later.look_again is not None
    assert later.look_again > 100


def test_what_is_refused_is_told_and_tried_again_later():
    refusal = Refusal("Service digits exists and belongs to something else", at=NOW - 1)
    answer = decide(deployment(), refusal=refusal)
    assert (answer.applies, answer.creates, answer.look_again) == ((), (), 1.0)
    assert (answer.status["reason"], answer.status["phase"]) == ("Refused", "Starting")
    assert "belongs to something else" in answer.status["message"]
    again = decide(deployment(answer.status), refusal=refusal, now=NOW + 2)
    assert (len(again.applies), len(again.creates), "failovers" in again.status) == (2, 2, False)


def test_what_was_never_whole_and_serves_is_looked_after_while_another_model_is_waited_for():
    cluster = Simulated()
    cluster.edit(replicas=10)  # there is room for nine
    settle(cluster)
    cluster.edit(model=FROM_JOB["model"])
    settle(cluster)
    conditions = {one["type"]: one["status"] for one in cluster.resource["status"]["conditions"]}
    assert (len(cluster.answering()), conditions["Servable"], conditions["UpToDate"]) == (9, "True", "False")
    cluster.delete_pod(0, at_once=True)
    settle(cluster)
    assert len(cluster.answering()) == 9
    cluster.edit(suspend=True)
    settle(cluster)
    assert (cluster.answering(), cluster.resource["status"]["attempt"]) == ([], 11)


def settle(cluster: Simulated) -> None:
    for _ in range(30):
        cluster.carry_out(cluster.plan())
        cluster.advance()
