"""What every cluster is given: an audit policy, DNS and a default storage class."""

from local_cluster.kubernetes_api import Object

STORAGE_CLASS = "shared"
PROVISIONER = "local-cluster.muster.dev/shared"
DNS_IMAGE = "localhost/muster-coredns:1"

# The catch-all has a block of its own: `template` comes before `kubernetes` whatever the order in the file.
# Without an answer, even "no such name", gloo's reverse look-ups wait 20 to 60 s.
_COREFILE = """cluster.local:53 in-addr.arpa:53 {
  errors
  ready
  kubernetes cluster.local in-addr.arpa {
    pods insecure
    ttl 5
  }
}
.:53 {
  template ANY ANY {
    rcode NXDOMAIN
  }
}
"""

AUDIT_POLICY: Object = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # What the cluster says to itself all the time would bury what people and operators do.
        {
            "level": "None",
            "userGroups": ["system:nodes"],
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
        },
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version"]},
        {"level": "Metadata"},
    ],
}


def storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true",
                "kubernetes.io/description": "A directory of this machine that every node mounts: ReadWriteMany.",
            },
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def dns(address: str) -> list[Object]:
    """CoreDNS in two replicas on different nodes, so that a lost node does not take DNS with it."""
    return [*_dns_identity(), _dns_config(), _dns_service(address), _dns_deployment()]


def _dns_identity() -> list[Object]:
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"}
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}
    rbac = "rbac.authorization.k8s.io/v1"
    name = {"name": "system:coredns"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named("coredns")},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": name, "rules": rules},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": role,
            "subjects": [account],
        },
    ]


def _dns_config() -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named("coredns"), "data": {"Corefile": _COREFILE}}


def _dns_service(address: str) -> Object:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    spec = {"clusterIP": address, "selector": {"k8s-app": "kube-dns"}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _named("kube-dns"), "spec": spec}


def _dns_deployment() -> Object:
    labels = {"k8s-app": "kube-dns"}
    container = {
        "name": "coredns",
        "image": DNS_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    expression = {"key": "type", "operator": "NotIn", "values": ["kwok"]}  # a simulated node answers nothing
    really = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"operator": "Exists"}],
        "topologySpreadConstraints": [apart],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": really}},
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _named("coredns"), "spec": spec}


def _named(name: str) -> Object:
    return {"name": name, "namespace": "kube-system"}
