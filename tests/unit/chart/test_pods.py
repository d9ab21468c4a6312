"""The pods that the chart makes."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from muster.__main__ import main
from tests.unit.chart.rendering import CHART, render


def pod_specs(chart):
    pods = [item["spec"] for item in chart.all("Pod")]
    return [*pods, chart.one("Deployment")["spec"]["template"]["spec"]]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def operator(chart):
    return chart.one("Deployment")["spec"]["template"]["spec"]["containers"][0]


def environment(chart):
    return {entry["name"]: entry.get("value") for entry in operator(chart)["env"]}


@pytest.mark.parametrize("values", [None, *sorted((CHART / "ci").glob("*.yaml"))], ids=lambda path: path and path.stem)
def test_every_pod_is_of_the_restricted_standard_and_cannot_write_its_image(values):
    for spec in pod_specs(render(values=values)):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_environment_is_what_muster_run_understands():
    understood = CliRunner().invoke(main, ["run", "--help"], catch_exceptions=False, terminal_width=400).output
    given = [name for name in environment(render("watchNamespaces={a}")) if name.startswith("MUSTER_")]

    assert len(given) == 11
    assert [name for name in given if name not in understood] == []
    assert operator(render())["args"] == ["run"]


@pytest.mark.parametrize(("option", "setting"), [("log_level", "log.level"), ("log_format", "log.format")])
def test_every_choice_of_muster_run_is_a_value_of_the_chart_and_no_other(option, setting):
    choice = next(parameter.type for parameter in main.commands["run"].params if parameter.name == option)
    _, field = setting.split(".")
    name = f"MUSTER_LOG_{field.upper()}"

    assert {environment(render(f"{setting}={value}"))[name] for value in choice.choices} == set(choice.choices)


def test_the_namespaces_reach_the_operator():
    assert environment(render("watchNamespaces={research,production}"))["MUSTER_NAMESPACES"] == "research,production"
    assert "MUSTER_NAMESPACES" not in environment(render())


def test_images_are_put_together_from_repository_and_tag():
    chart = render(
        "image.repository=example.org:5000/muster",
        "image.tag=1.2.3",
        "workerImage.tag=gpu",
        "runtimeImages.torchserve=example.org/ts:1",
        "runtimeImages.tensorflowServing=example.org/tfs:2",
    )

    assert operator(chart)["image"] == "example.org:5000/muster:1.2.3"
    assert environment(chart)["MUSTER_WORKER_IMAGE"] == "localhost/muster-worker:gpu"
    assert environment(chart)["MUSTER_TORCHSERVE_IMAGE"] == "example.org/ts:1"
    assert environment(chart)["MUSTER_TENSORFLOW_SERVING_IMAGE"] == "example.org/tfs:2"


def test_nodes_keep_fetched_models_only_where_a_directory_is_named():
    assert "MUSTER_MODEL_CACHE" not in environment(render())
    assert render().all("DaemonSet") == []

    chart = render("modelCache.hostPath=/var/lib/models")
    prepares = chart.one("DaemonSet", "muster-model-cache")["spec"]["template"]["spec"]
    (one,) = prepares["initContainers"]

    assert environment(chart)["MUSTER_MODEL_CACHE"] == "/var/lib/models"
    assert prepares["volumes"] == [
        {"name": "models", "hostPath": {"path": "/var/lib/models", "type": "DirectoryOrCreate"}}
    ]
    assert (one["command"][-3:], one["securityContext"]["runAsUser"]) == (["-m", "1777", "/models"], 0)
    assert render("modelCache.hostPath=/var/lib/models", "modelCache.prepare=false").all("DaemonSet") == []
    labels = chart.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    operators = chart.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert not operators.items() <= labels.items(), "its pods are none of the operator's"


def test_the_lease_in_the_environment_is_the_one_that_may_be_changed():
    chart = render(release="other")
    leader = chart.one("Role", "other-muster-leader")

    assert environment(chart)["MUSTER_LEASE_NAME"] in leader["rules"][0]["resourceNames"]
    assert environment(chart)["MUSTER_LEASE_NAMESPACE"] == leader["metadata"]["namespace"]


def test_two_operators_stand_in_different_zones_and_one_at_a_time_is_evicted():
    chart = render()
    deployment = chart.one("Deployment")["spec"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]

    assert deployment["replicas"] == 2
    assert {constraint["topologyKey"] for constraint in spread} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    assert chart.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_service_and_budget_select_the_operators_pods_and_no_test_pod():
    chart = render()
    labels = chart.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    test_labels = chart.one("Pod")["metadata"]["labels"]
    selectors = [
        chart.one("Service")["spec"]["selector"],
        chart.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        chart.one("Deployment")["spec"]["selector"]["matchLabels"],
    ]

    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items()


def test_what_tests_the_release_goes_to_the_nodes_that_its_operator_goes_to():
    chart = render("nodeSelector.pool=system", "tolerations[0].key=system", "tolerations[0].operator=Exists")
    test, operators = chart.one("Pod")["spec"], chart.one("Deployment")["spec"]["template"]["spec"]

    for name in ("nodeSelector", "tolerations"):
        assert test[name] == operators[name]


def test_the_probes_ask_the_port_that_the_operator_listens_on():
    chart = render()
    container = operator(chart)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert str(ports["http"]) == environment(chart)["MUSTER_HTTP_PORT"]
    assert chart.one("Service")["spec"]["ports"][0]["targetPort"] == "http"


def test_the_helm_test_asks_the_release_s_own_service():
    chart = render(release="other")
    script = chart.one("Pod")["spec"]["containers"][0]["command"][-1]

    assert f"http://{chart.one('Service')['metadata']['name']}.muster-system:8080/readyz" in script
    compile(script, "helm test", "exec")
    assert chart.one("Pod")["spec"]["initContainers"][0]["args"] == ["version"]
