"""An autoscaler is made, put right and removed as the spec says; who scales is left alone."""

from __future__ import annotations

import pytest

from tests.unit.plan.serving.fixtures import decide, deployment, known, made, pod, revision

ONE = revision()
UP_TO_FIVE = {"autoscaling": {"maxReplicas": 5, "target": "50"}}
PODS = (pod(0, 1, ONE), pod(1, 2, ONE))


def autoscalers(answer):
    return [one for one in answer.besides if one["kind"] == "HorizontalPodAutoscaler"]


@pytest.mark.parametrize(
    ("more", "metric"),
    [
        (
            {},
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": "muster_serve_requests_per_second"},
                    "target": {"type": "AverageValue", "averageValue": "50"},
                },
            },
        ),
        (
            {"metric": "cpu"},
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
            },
        ),
    ],
    ids=["requests", "cpu"],
)
def test_it_scales_the_deployment_by_what_each_group_does(more, metric):
    (made,) = autoscalers(decide(deployment(autoscaling=UP_TO_FIVE["autoscaling"] | more)))
    assert made["spec"] == {
        "scaleTargetRef": {"apiVersion": "muster.dev/v1alpha1", "kind": "ModelDeployment", "name": "digits"},
        "minReplicas": 1,
        "maxReplicas": 5,
        "metrics": [metric],
    }


def test_one_that_is_as_it_should_be_is_left_alone_and_one_that_is_not_put_right():
    (made,) = autoscalers(decide(deployment(**UP_TO_FIVE)))
    there = made | {"metadata": made["metadata"] | {"uid": "u"}}
    assert autoscalers(decide(deployment(known(ONE), **UP_TO_FIVE), *PODS, autoscalers=(there,))) == []
    changed = there | {"spec": there["spec"] | {"maxReplicas": 9}}
    assert autoscalers(decide(deployment(known(ONE), **UP_TO_FIVE), *PODS, autoscalers=(changed,))) == [made]


@pytest.mark.parametrize(("target", "canonical"), [("0.5", "500m"), ("1000", "1k"), ("2.50", "2500m"), ("1e3", "1k")])
def test_a_target_as_the_api_server_writes_it_is_the_same(target, canonical):
    scaling = {"autoscaling": {"maxReplicas": 5, "target": target}}
    (there,) = autoscalers(decide(deployment(**scaling)))
    there["metadata"]["uid"] = "u"
    aim = there["spec"]["metrics"][0]["pods"]["target"]
    aim["averageValue"] = canonical
    assert autoscalers(decide(deployment(known(ONE), **scaling), *PODS, autoscalers=(there,))) == []
    aim["averageValue"] = "3"
    assert len(autoscalers(decide(deployment(known(ONE), **scaling), *PODS, autoscalers=(there,)))) == 1


def test_what_others_say_of_how_fast_it_scales_is_left_alone():
    (made,) = autoscalers(decide(deployment(**UP_TO_FIVE)))
    slow = made["spec"] | {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}}}
    there = made | {"metadata": made["metadata"] | {"uid": "u"}, "spec": slow}
    assert autoscalers(decide(deployment(known(ONE), **UP_TO_FIVE), *PODS, autoscalers=(there,))) == []


def test_one_that_is_not_asked_for_any_more_is_removed_and_the_groups_stay():
    (there,) = autoscalers(decide(deployment(**UP_TO_FIVE)))
    answer = decide(
        deployment(known(ONE)),
        *PODS,
        revisions=(ONE,),
        autoscalers=(there | {"metadata": there["metadata"] | {"uid": "u"}},),
    )
    assert [(one.kind, one.name) for one in answer.deletes] == [("HorizontalPodAutoscaler", "digits")]
    assert made(answer) == []


def test_whoever_asks_for_it_rolls_nothing_out():
    assert made(decide(deployment(known(ONE), **UP_TO_FIVE), *PODS, revisions=(ONE,))) == []
