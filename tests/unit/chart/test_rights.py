"""What the operator, and who uses it, may do."""

from __future__ import annotations

from tests.unit.chart.rendering import NAMESPACE, render

# Every right and what uses it. A new verb belongs here with its reason, or not into the chart.
JOB_RIGHTS = {
    ("muster.dev", "trainingjobs", "get"),  # the fresh look before pods are made
    ("muster.dev", "trainingjobs", "list"),  # the store
    ("muster.dev", "trainingjobs", "watch"),
    ("muster.dev", "trainingjobs", "delete"),  # ttlSecondsAfterFinished
    ("muster.dev", "trainingjobs/status", "patch"),  # the one status write
    ("muster.dev", "modeldeployments", "get"),
    ("muster.dev", "modeldeployments", "list"),
    ("muster.dev", "modeldeployments", "watch"),
    ("muster.dev", "modeldeployments/status", "patch"),
    ("apps", "controllerrevisions", "get"),  # a delete that met another object of that name
    ("apps", "controllerrevisions", "list"),  # the store
    ("apps", "controllerrevisions", "watch"),
    ("apps", "controllerrevisions", "create"),  # server-side apply of what is not there yet
    ("apps", "controllerrevisions", "patch"),
    ("apps", "controllerrevisions", "delete"),  # beyond spec.rollout.revisionHistoryLimit
    ("discovery.k8s.io", "endpointslices", "list"),  # the store
    ("discovery.k8s.io", "endpointslices", "watch"),
    ("policy", "poddisruptionbudgets", "get"),  # an apply that met another object of that name
    ("policy", "poddisruptionbudgets", "list"),  # the store
    ("policy", "poddisruptionbudgets", "watch"),
    ("policy", "poddisruptionbudgets", "create"),  # server-side apply of what is not there yet
    ("policy", "poddisruptionbudgets", "patch"),
    ("autoscaling", "horizontalpodautoscalers", "get"),  # a delete that met another object of that name
    ("autoscaling", "horizontalpodautoscalers", "list"),  # the store
    ("autoscaling", "horizontalpodautoscalers", "watch"),
    ("autoscaling", "horizontalpodautoscalers", "create"),  # server-side apply of what is not there yet
    ("autoscaling", "horizontalpodautoscalers", "patch"),
    ("autoscaling", "horizontalpodautoscalers", "delete"),  # spec.autoscaling is not asked for any more
    ("gateway.networking.k8s.io", "httproutes", "get"),  # a delete or a create that met another object of that name
    ("gateway.networking.k8s.io", "httproutes", "list"),  # the store, where the cluster has the Gateway API
    ("gateway.networking.k8s.io", "httproutes", "watch"),
    ("gateway.networking.k8s.io", "httproutes", "create"),  # server-side apply of what is not there yet
    ("gateway.networking.k8s.io", "httproutes", "patch"),
    ("gateway.networking.k8s.io", "httproutes", "delete"),  # spec.canary.gateway is not asked for any more
    ("", "pods", "get"),  # a create or a delete that met another object of that name
    ("", "pods", "list"),  # the store
    ("", "pods", "watch"),
    ("", "pods", "create"),  # plain POST: pods never change once made
    ("", "pods", "delete"),
    ("", "pods/status", "patch"),  # the readiness gate muster.dev/reachable
    ("", "services", "get"),  # a delete that met another object of that name
    ("", "services", "list"),  # the store
    ("", "services", "watch"),
    ("", "services", "create"),  # server-side apply of what is not there yet
    ("", "services", "patch"),  # server-side apply
    ("", "services", "delete"),
    ("events.k8s.io", "events", "create"),
    ("", "configmaps", "get"),  # whether what a job names is there
    ("", "persistentvolumeclaims", "get"),
    ("resource.k8s.io", "resourceclaims", "get"),
    ("resource.k8s.io", "resourceclaimtemplates", "get"),
    ("scheduling.x-k8s.io", "podgroups", "create"),  # server-side apply of what is not there yet
    ("scheduling.x-k8s.io", "podgroups", "patch"),
    ("scheduling.volcano.sh", "podgroups", "create"),
    ("scheduling.volcano.sh", "podgroups", "patch"),
    ("kueue.x-k8s.io", "workloads", "get"),  # a delete or a write that met another version of it
    ("kueue.x-k8s.io", "workloads", "list"),  # the store, where the cluster has Kueue
    ("kueue.x-k8s.io", "workloads", "watch"),
    ("kueue.x-k8s.io", "workloads", "create"),  # server-side apply of what is not there yet
    ("kueue.x-k8s.io", "workloads", "patch"),
    ("kueue.x-k8s.io", "workloads", "delete"),  # of a suspended job
    ("kueue.x-k8s.io", "workloads/status", "patch"),  # quota given back, PodsReady, Finished
    ("kueue.x-k8s.io", "localqueues", "get"),  # whether the one that a job names is there
}
CLUSTER_RIGHTS = {
    ("", "nodes", "list"),
    ("", "nodes", "watch"),
    ("scheduling.k8s.io", "priorityclasses", "get"),
    ("storage.k8s.io", "storageclasses", "get"),  # whether the one that a job names is there
    ("resource.k8s.io", "deviceclasses", "list"),
    ("scheduling.k8s.io", "priorityclasses", "list"),  # the order of those that wait
    ("apiextensions.k8s.io", "customresourcedefinitions", "get"),  # of Kueue, schedulers, HTTPRoute
    ("kueue.x-k8s.io", "resourceflavors", "list"),  # the store, where the cluster has Kueue
    ("kueue.x-k8s.io", "resourceflavors", "watch"),
}
LEADER_RIGHTS = {
    ("coordination.k8s.io", "leases", "get"),
    ("coordination.k8s.io", "leases", "create"),
    ("coordination.k8s.io", "leases", "update"),
}


def rights(role):
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_cluster_wide_the_operator_has_the_rights_that_it_uses_and_no_other():
    chart = render()

    assert rights(chart.one("ClusterRole", "muster")) == JOB_RIGHTS | CLUSTER_RIGHTS
    assert [role["metadata"]["name"] for role in chart.all("Role")] == ["muster-leader"]


def test_with_a_list_of_namespaces_pods_are_made_and_deleted_only_there():
    chart = render("watchNamespaces={research,production}")
    cluster_wide = chart.one("ClusterRole", "muster-muster-system")
    roles = {role["metadata"]["namespace"]: role for role in chart.all("Role")}

    assert rights(cluster_wide) == CLUSTER_RIGHTS | {("", "pods", "list")}
    assert roles.keys() == {"research", "production", NAMESPACE}
    assert rights(roles["research"]) == rights(roles["production"]) == JOB_RIGHTS
    assert rights(roles[NAMESPACE]) == LEADER_RIGHTS


def test_no_right_is_a_wildcard_and_none_reads_secrets():
    every_right = set().union(*(rights(role) for role in [*render().all("ClusterRole"), *render().all("Role")]))

    assert not [right for right in every_right if "*" in right]
    assert not [right for right in every_right if right[1] == "secrets"]


def test_the_lease_is_the_only_one_that_may_be_changed():
    rules = render(release="other").one("Role", "other-muster-leader")["rules"]
    changing = [rule for rule in rules if "update" in rule["verbs"]]

    assert [rule["resourceNames"] for rule in changing] == [["other-muster"]]


def test_every_binding_is_of_the_account_that_the_pods_have():
    chart = render("watchNamespaces={research}", "serviceAccount.name=trainer")
    subjects = [
        subject
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for item in chart.all(kind)
        for subject in item["subjects"]
    ]

    assert chart.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "trainer"
    assert subjects == [{"kind": "ServiceAccount", "name": "trainer", "namespace": NAMESPACE}] * 3


def test_an_account_that_is_there_already_is_not_made():
    chart = render("serviceAccount.create=false", "serviceAccount.name=mine")

    assert not chart.all("ServiceAccount")
    assert chart.one("ClusterRoleBinding")["subjects"][0]["name"] == "mine"


def test_viewers_see_jobs_and_editors_make_them_but_only_the_operator_writes_their_status():
    chart = render()
    view, edit = chart.one("ClusterRole", "muster-view"), chart.one("ClusterRole", "muster-edit")
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"

    assert view["metadata"]["labels"][aggregate + "view"] == "true"
    assert {verb for _, _, verb in rights(view)} == {"get", "list", "watch"}
    assert aggregate + "view" not in edit["metadata"]["labels"]
    assert edit["metadata"]["labels"][aggregate + "edit"] == "true"
    assert ("muster.dev", "trainingjobs", "create") in rights(edit)
    assert not [right for right in rights(edit) if right[1] == "trainingjobs/status"]


def test_who_makes_a_job_must_be_allowed_to_make_pods():
    chart = render()
    policy = chart.one("ValidatingAdmissionPolicy")["spec"]
    binding = chart.one("ValidatingAdmissionPolicyBinding")["spec"]

    assert policy["failurePolicy"] == "Fail"
    assert policy["matchConstraints"]["resourceRules"][0]["resources"] == ["trainingjobs", "modeldeployments"]
    assert "authorizer.group('').resource('pods')" in policy["validations"][0]["expression"]
    assert binding["policyName"] == chart.one("ValidatingAdmissionPolicy")["metadata"]["name"]
    assert binding["validationActions"] == ["Deny"]
    assert "matchResources" not in binding


def test_the_policy_of_a_namespaced_install_looks_at_its_own_namespaces():
    binding = render("watchNamespaces={research}").one("ValidatingAdmissionPolicyBinding")["spec"]
    selected = binding["matchResources"]["namespaceSelector"]["matchExpressions"]

    assert selected == [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["research"]}]


def test_the_policy_and_the_users_roles_can_be_left_to_others():
    chart = render("admissionPolicy.enabled=false", "userRoles.aggregate=false")

    assert not chart.all("ValidatingAdmissionPolicy")
    assert not chart.all("ValidatingAdmissionPolicyBinding")
    assert [role["metadata"]["name"] for role in chart.all("ClusterRole")] == ["muster"]
