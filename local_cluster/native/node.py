"""A node: containerd, kubelet and kube-proxy in namespaces and cgroups of their own.

In its mount namespace a node has its own /run, /var/lib and /var/log. So every program finds its usual
paths, no two nodes meet in them, and all that is mounted there goes with the node's last process.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from local_cluster import commands, interrupts
from local_cluster.checkout import Checkout, write_atomically
from local_cluster.errors import ClusterError
from local_cluster.native import cgroups, network, pki
from local_cluster.native.control_plane import ControlPlane, flags, proxy_config
from local_cluster.native.slots import Slot
from local_cluster.processes import Daemons

# Where a node sees what it is given.
INSIDE = PurePosixPath("/run/muster")
CONFIGURATION = INSIDE / "etc"
STORAGE = INSIDE / "storage"
TEMPLATES = INSIDE / "templates"
PAUSE_IMAGE = "localhost/muster-pause:1"

# $1 to $5: the node's directory, the programs, the storage, the image templates, the program's first word.
_FURNISH = f"""
node=$1 programs=$2 storage=$3 templates=$4; shift 4
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock {INSIDE}/lib {INSIDE}/log {INSIDE}/etc {INSIDE}/bin {STORAGE} {TEMPLATES}
mount --bind "$node/lib" {INSIDE}/lib
mount --bind "$node/log" {INSIDE}/log
mount --bind "$node/etc" {INSIDE}/etc
mount --bind "$programs" {INSIDE}/bin
mount --bind "$storage" {STORAGE}
mount --bind "$templates" {TEMPLATES}
mount -o remount,bind,ro {TEMPLATES}
mount --bind {INSIDE}/lib /var/lib
mount --bind {INSIDE}/log /var/log
mount --make-rshared /
exec "$@"
"""


@dataclass(frozen=True)
class Node:
    checkout: Checkout
    slot: Slot
    number: int
    programs: Path
    templates: Path
    trees: cgroups.Hierarchies

    @property
    def name(self) -> str:
        return network.node_place(self.number)

    @property
    def directory(self) -> Path:
        return self.checkout.state / "nodes" / self.name

    @property
    def address(self) -> str:
        return self.slot.node_address(self.number)

    @property
    def group(self) -> str:
        return f"{self.slot.name}/{self.name}"

    @property
    def identity(self) -> pki.Identity:
        return pki.node(self.name, self.address)

    def daemon(self, program: str) -> str:
        return f"{program}-{self.number}"

    def prepare(self, control_plane: ControlPlane) -> None:
        """Directories, cgroups, certificate and configuration files."""
        etc = self.directory / "etc"
        for directory in ("lib/containerd", "lib/kubelet", "lib/cni", "log", "etc/cni"):
            (self.directory / directory).mkdir(parents=True, exist_ok=True)
        cgroups.create(self.trees, f"{self.group}/daemons")
        authority = control_plane.authority
        authority.issue(self.identity)
        for source, name in zip(authority.files(self.identity), ("node.crt", "node.key"), strict=True):
            shutil.copy(source, etc / name)
        shutil.copy(authority.certificate, etc / "ca.crt")
        authority.write_kubeconfig(self.identity, control_plane.server, etc / "kubelet.kubeconfig")
        authority.write_kubeconfig(pki.PROXY, control_plane.server, etc / "kube-proxy.kubeconfig")
        proxy = proxy_config(str(CONFIGURATION / "kube-proxy.kubeconfig"), self.slot, self.name)
        for name, content in (
            ("containerd.toml", containerd_config()),
            ("cni/10-pods.conflist", json.dumps(cni_config(self.slot, self.number), indent=1)),
            ("kubelet.json", json.dumps(kubelet_config(self.address, f"/{self.group}", self.slot), indent=1)),
            ("kube-proxy.json", json.dumps(proxy, indent=1)),
        ):
            write_atomically(etc / name, content)

    def start_containerd(self, daemons: Daemons) -> None:
        given = [self.directory, self.programs, self.checkout.storage, self.templates]
        own_mounts = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-ec", _FURNISH, "sh", *given]
        containerd = ["containerd", "--config", CONFIGURATION / "containerd.toml"]
        self._start(daemons, "containerd", [*network.enter(self.slot, self.name), *own_mounts, *containerd])

    def start_kubelet(self, daemons: Daemons) -> None:
        kubelet = flags(
            Path(INSIDE / "bin" / "kubelet"),
            config=CONFIGURATION / "kubelet.json",
            kubeconfig=CONFIGURATION / "kubelet.kubeconfig",
            hostname_override=self.name,
            node_ip=self.address,
            node_labels=",".join(f"{key}={value}" for key, value in labels(self.number).items()),
        )
        self._start(daemons, "kubelet", [*self._inside(daemons), *kubelet])

    def start_proxy(self, daemons: Daemons) -> None:
        proxy = [INSIDE / "bin" / "kube-proxy", "--config", CONFIGURATION / "kube-proxy.json"]
        self._start(daemons, "kube-proxy", [*self._inside(daemons), *proxy])

    def await_containerd(self, daemons: Daemons, limit: float = 30) -> None:
        containerd = daemons.get(self.daemon("containerd"))
        # The node's own /run, seen from outside; the kubelet there tells it from the machine's.
        run = Path(f"/proc/{containerd.pid}/root/run")

        def listening() -> bool:
            if not containerd.alive():
                words = daemons.last_words(self.daemon("containerd"))
                raise ClusterError(f"containerd of {self.name} ended while starting:\n{words}")
            return (run / "muster/bin/kubelet").exists() and (run / "containerd/containerd.sock").exists()

        interrupts.wait_for(f"containerd of {self.name} listens", listening, limit, every=0.05)

    def ctr(self, daemons: Daemons, *words: str | Path) -> str:
        """Runs containerd's own client on the node, in the namespace that Kubernetes uses."""
        return commands.run(*self._inside(daemons), "ctr", "--namespace", "k8s.io", *words)

    def _inside(self, daemons: Daemons) -> list[str]:
        pid = daemons.get(self.daemon("containerd")).pid
        namespaces = [f"--mount=/proc/{pid}/ns/mnt", f"--net=/run/netns/{self.slot.namespace(self.name)}"]
        return ["nsenter", *namespaces, "--"]

    def _start(self, daemons: Daemons, program: str, argv: Sequence[object]) -> None:
        daemons.start(self.daemon(program), argv, self.trees.entrances(f"{self.group}/daemons"))


def labels(number: int) -> dict[str, str]:
    return {"topology.kubernetes.io/zone": f"zone-{number}", "topology.kubernetes.io/region": "local"}


def containerd_config() -> str:
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# Both would make directories under /opt on the machine.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without it, runc says "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{CONFIGURATION}/cni"
"""


def cni_config(slot: Slot, number: int) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": str(slot.node_pods(number))}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{**bridge, "ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def kubelet_config(address: str, cgroup_root: str, slot: Slot) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": str(CONFIGURATION / "ca.crt")},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "address": address,
        "tlsCertFile": str(CONFIGURATION / "node.crt"),
        "tlsPrivateKeyFile": str(CONFIGURATION / "node.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "clusterDNS": [slot.dns_address],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        # A lease renewed every 2 s, so that 12 s of silence are six missed ones.
        "nodeLeaseDurationSeconds": 8,
        "nodeStatusUpdateFrequency": "4s",
        "nodeStatusReportFrequency": "1m",
        # All nodes share this machine's disk and memory: none may throw anything out for being short of them.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "serializeImagePulls": False,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }
