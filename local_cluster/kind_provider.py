"""The provider for machines with Docker or Podman: kind, whose nodes are containers."""

import base64
import json
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

from local_cluster import cache, commands, go_builds, interrupts, manifests, simulated, stand_ins
from local_cluster.checkout import Checkout, write_atomically, write_json
from local_cluster.errors import ClusterError
from local_cluster.images.engines import ContainerEngine
from local_cluster.kubernetes_api import Access, Api, Object
from local_cluster.processes import Daemons
from local_cluster.progress import Progress
from local_cluster.provider import ClusterRecord, Size, Status

# Where the containers see the checkout's storage, the audit policy and the logs.
_STORAGE = "/mnt/muster-storage"
_AUDIT = "/etc/kubernetes/muster-audit"
_LOGS = "/var/log/muster"

_PROGRAMS = "build kind and kubectl"
_CREATE = "create the containers and start Kubernetes in them"
_FURNISH = "volumes, GPUs and DNS are there"


class KindProvider:
    name = "kind"

    def __init__(self, checkout: Checkout, engine: ContainerEngine) -> None:
        self._checkout = checkout
        self._engine = engine
        self._daemons = Daemons(checkout.state / "processes.json", checkout.logs)

    @property
    def _cluster(self) -> str:
        return f"muster-{self._checkout.identity}"

    def up(self, size: Size) -> None:
        progress = Progress({_PROGRAMS: 60.0, _CREATE: 90.0, _FURNISH: 20.0})
        with progress.step(_PROGRAMS):
            go_builds.build(go_builds.KIND)
            go_builds.build(go_builds.KUBERNETES)
        self.down()  # what an earlier command may have left
        record = ClusterRecord(self.name, simulated=size.simulated)
        write_json(self._checkout.record, asdict(record))
        try:
            with progress.step(_CREATE):
                self._create(size)
            with progress.step(_FURNISH):
                api = self._api()
                self._furnish(api, size)
                names = [node["metadata"]["name"] for node in _workers(api)]
        except BaseException:
            progress.note("  stopped: removing what was started")
            self.down()
            raise
        complete = replace(record, complete=True, nodes=dict.fromkeys(names, ""))
        write_json(self._checkout.record, asdict(complete))
        progress.note(f"  the cluster is up after {progress.elapsed:.0f} s")

    def _create(self, size: Size) -> None:
        state = self._checkout.state
        for directory in (self._checkout.storage, self._checkout.logs, state / "audit"):
            directory.mkdir(parents=True, exist_ok=True)
        write_json(state / "audit" / "policy.json", manifests.AUDIT_POLICY)
        write_json(state / "kind.json", cluster_config(self._checkout, size))
        self._kind("create", "cluster", "--config", state / "kind.json", "--wait", "180s")

    def _furnish(self, api: Api, size: Size) -> None:
        other = "/apis/storage.k8s.io/v1/storageclasses/standard"
        if api.find(other):
            api.merge(other, {"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "false"}}})
        api.apply(manifests.storage_class())
        access = self._access()
        self._daemons.start(
            "stand-ins",
            stand_ins.command(self._checkout.root, sys.executable, access, self._checkout.storage, _STORAGE),
        )
        if size.simulated:
            self._daemons.start("kwok", simulated.kwok(self._checkout.state, self._checkout.kubeconfig))
            simulated.create_nodes(api, size.simulated)
            simulated.await_nodes(api, self._daemons, size.simulated)
        if size.nodes:
            interrupts.wait_for("CoreDNS is ready", lambda: _dns_ready(api), 120, every=0.5)

    def down(self) -> None:
        for daemon in self._daemons.all().values():
            if daemon.alive():
                daemon.signal(signal.SIGTERM)
        if self._exists():
            self._kind("delete", "cluster")
        self._checkout.remove_state()

    def status(self) -> Status:
        record = ClusterRecord(**(self._checkout.read_record() or {"provider": self.name}))
        if not record.complete:
            return Status(False, "broken", ("an earlier command was killed: `up` or `down` tidies up",))
        api = self._api()
        if not api.ready():
            return Status(False, "degraded", ("the API server does not answer",))
        wrong = [f"{name} is not running, see {self._daemons.log(name)}" for name in self._daemons.dead()]
        ready = {node["metadata"]["name"] for node in _workers(api) if simulated.is_ready(node)}
        wrong += [f"{name} is not ready" for name in record.nodes if name not in ready | set(record.harmed)]
        if record.nodes and not _dns_ready(api):
            wrong.append("CoreDNS is not ready")
        return Status(
            not wrong, "degraded" if wrong else "running", (*wrong, *record.told, f"{len(record.nodes)} nodes")
        )

    def size(self) -> Size:
        record = ClusterRecord(**(self._checkout.read_record() or {"provider": self.name}))
        return Size(len(record.nodes), record.simulated)

    def load(self, names: list[str]) -> None:
        for name in names:
            if self._engine.name == "docker":
                self._kind("load", "docker-image", name)
            else:
                self._load_archive(name)  # kind's `load docker-image` asks Docker, whatever the nodes run in

    def _load_archive(self, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="muster-load-", dir=cache.root()) as scratch:
            archive = Path(scratch) / "image.tar"
            commands.run(self._engine.name, "save", "--output", archive, name)
            self._kind("load", "image-archive", archive)

    def add_node(self, name: str) -> None:
        raise ClusterError(f"kind cannot join {name} to a running cluster: run `down`, then `up --nodes N`")

    def fail_node(self, name: str) -> None:
        record = self._record_with(name)
        commands.run(self._engine.name, "network", "disconnect", "kind", name)
        self._write_harm(record, name, "failed")

    def hang_node(self, name: str) -> None:
        record = self._record_with(name)
        commands.run(self._engine.name, "exec", name, "systemctl", "kill", "--signal=STOP", "kubelet")
        self._write_harm(record, name, "hung")

    def heal_node(self, name: str) -> None:
        record = self._record_with(name)
        if record.nodes[name] == "failed":
            commands.run(self._engine.name, "network", "connect", "kind", name)
        else:
            commands.run(self._engine.name, "exec", name, "systemctl", "kill", "--signal=CONT", "kubelet")
        self._write_harm(record, name, "")

    def _record_with(self, name: str) -> ClusterRecord:
        record = ClusterRecord(**(self._checkout.read_record() or {"provider": self.name}))
        if name not in record.nodes:
            raise ClusterError(f"there is no node {name}: the nodes are {', '.join(record.nodes) or 'none'}")
        return record

    def _write_harm(self, record: ClusterRecord, name: str, harm: str) -> None:
        record.nodes[name] = harm
        write_json(self._checkout.record, asdict(record))

    def _exists(self) -> bool:
        return self._cluster in self._kind("get", "clusters", whole=True).split()

    def _kind(self, *words: str | Path, whole: bool = False) -> str:
        which = [] if whole else ["--name", self._cluster]
        environment = {
            "KIND_EXPERIMENTAL_PROVIDER": self._engine.name,
            "KUBECONFIG": str(self._checkout.kubeconfig),  # never the user's own
        }
        return commands.run(go_builds.build(go_builds.KIND) / "kind", *words, *which, env=environment)

    def _api(self) -> Api:
        return Api(self._access())

    def _access(self) -> Access:
        """Takes kind's kubeconfig apart into the files that the client wants."""
        kubectl = go_builds.build(go_builds.KUBERNETES) / "kubectl"
        view = ["config", "view", "--raw", "--output=json"]
        config = json.loads(commands.run(kubectl, f"--kubeconfig={self._checkout.kubeconfig}", *view))
        (cluster,), (user,) = config["clusters"], config["users"]
        address = urlsplit(cluster["cluster"]["server"])
        files = self._checkout.state / "pki"
        contents = {
            "ca.crt": cluster["cluster"]["certificate-authority-data"],
            "admin.crt": user["user"]["client-certificate-data"],
            "admin.key": user["user"]["client-key-data"],
        }
        for name, content in contents.items():
            write_atomically(files / name, base64.b64decode(content).decode(), mode=0o600)
        host, port = address.hostname or "127.0.0.1", address.port or 443
        return Access(host, port, files / "ca.crt", files / "admin.crt", files / "admin.key")


def cluster_config(checkout: Checkout, size: Size) -> Object:
    """Kind's own configuration: one control plane and the workers, each in its zone."""
    mounts = [{"hostPath": str(checkout.storage), "containerPath": _STORAGE}]
    audit = [
        {"hostPath": str(checkout.state / "audit"), "containerPath": _AUDIT, "readOnly": True},
        {"hostPath": str(checkout.logs), "containerPath": _LOGS},
    ]
    volumes = [
        {"name": "audit-policy", "hostPath": _AUDIT, "mountPath": _AUDIT, "readOnly": True},
        {"name": "audit-log", "hostPath": _LOGS, "mountPath": _LOGS},
    ]
    arguments = {"audit-policy-file": f"{_AUDIT}/policy.json", "audit-log-path": f"{_LOGS}/audit.log"}
    quick = {"kube-api-qps": "500", "kube-api-burst": "1000"}
    patience = {"node-monitor-period": "2s", "node-monitor-grace-period": "12s"}
    kubeadm = {
        "kind": "ClusterConfiguration",
        "apiServer": {"extraArgs": arguments, "extraVolumes": volumes},
        "controllerManager": {"extraArgs": {**quick, **patience}},
        "scheduler": {"extraArgs": quick},
    }
    kubelet = {"kind": "KubeletConfiguration", "nodeLeaseDurationSeconds": 8}
    workers = [
        {
            "role": "worker",
            "labels": {"topology.kubernetes.io/zone": f"zone-{number}", "topology.kubernetes.io/region": "local"},
            "extraMounts": mounts,
        }
        for number in range(1, size.nodes + 1)
    ]
    return {
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kind": "Cluster",
        "kubeadmConfigPatches": [json.dumps(kubeadm), json.dumps(kubelet)],
        "nodes": [{"role": "control-plane", "extraMounts": [*mounts, *audit]}, *workers],
    }


def _workers(api: Api) -> list[Object]:
    nodes = api.items("/api/v1/nodes", labelSelector="!node-role.kubernetes.io/control-plane")
    return [node for node in nodes if stand_ins.SIMULATED not in node["metadata"].get("annotations", {})]


def _dns_ready(api: Api) -> bool:
    deployment = api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    return bool(deployment.get("status", {}).get("readyReplicas", 0))
