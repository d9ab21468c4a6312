"""etcd, API server, controller manager and scheduler, and the kube-proxy that lets them reach Services."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_cluster import interrupts
from local_cluster.checkout import Checkout, write_atomically, write_json
from local_cluster.kubernetes_api import Access, Api
from local_cluster.manifests import AUDIT_POLICY
from local_cluster.native import cgroups, network, pki
from local_cluster.native.slots import Slot
from local_cluster.processes import Daemons

API_PORT = 6443
GROUP = "control-plane"
_PROXY = "kube-proxy-control-plane"
_READY_LIMIT = 60  # seconds

# The kube-proxy would leave its lock in the machine's /run.
_MOUNT_OWN_RUN = 'mount -t tmpfs -o mode=755 tmpfs /run; exec "$@"'
_WITH_OWN_RUN = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-ec", _MOUNT_OWN_RUN, "sh"]


@dataclass(frozen=True)
class ControlPlane:
    checkout: Checkout
    slot: Slot
    programs: Path
    trees: cgroups.Hierarchies

    @property
    def directory(self) -> Path:
        return self.checkout.state / "control-plane"

    @property
    def authority(self) -> pki.Authority:
        return pki.Authority(self.checkout.state / "pki")

    @property
    def server(self) -> str:
        return f"https://{self.slot.control_plane_address}:{API_PORT}"

    def access(self, identity: pki.Identity) -> Access:
        certificate, key = self.authority.files(identity)
        return Access(self.slot.control_plane_address, API_PORT, self.authority.certificate, certificate, key)

    def api(self) -> Api:
        return Api(self.access(pki.ADMIN))

    def prepare(self) -> None:
        """Certificates, kubeconfigs and configuration files."""
        addresses = [self.slot.control_plane_address, self.slot.api_service_address, "127.0.0.1"]
        self.directory.mkdir(parents=True)
        self.authority.create()
        self.authority.issue(pki.api_server(addresses))
        self.authority.issue(pki.FRONT_PROXY)
        for identity in (pki.ADMIN, pki.CONTROLLER_MANAGER, pki.SCHEDULER, pki.PROXY, pki.STAND_INS):
            self.authority.issue(identity)
            self.authority.write_kubeconfig(identity, self.server, self.kubeconfig(identity))
        write_json(self.directory / "audit-policy.json", AUDIT_POLICY)
        # It takes node-1's name: for a node that does not exist, kube-proxy waits half a minute.
        proxy = proxy_config(str(self.kubeconfig(pki.PROXY)), self.slot, network.node_place(1))
        write_atomically(self.directory / "kube-proxy.json", json.dumps(proxy))

    def kubeconfig(self, identity: pki.Identity) -> Path:
        return self.authority.directory / f"{identity.file}.kubeconfig"

    def start_api(self, daemons: Daemons) -> None:
        self._start(daemons, "etcd", etcd(self.programs, self.directory / "etcd"))
        self._start(daemons, "kube-apiserver", self.api_server())

    def await_api(self, daemons: Daemons) -> Api:
        api = self.api()

        def ready() -> bool:
            daemons.must_live()
            return api.ready()

        interrupts.wait_for("the API server is ready", ready, _READY_LIMIT)
        return api

    def start_controllers(self, daemons: Daemons) -> None:
        """Only once the API server is ready: earlier the controller manager dies on roles that are not there yet."""
        self._start(daemons, "kube-controller-manager", self.controller_manager())
        self._start(daemons, "kube-scheduler", self.scheduler())

    def restart_api(self, daemons: Daemons, dead: Sequence[str]) -> None:
        if "etcd" in dead:
            self._start(daemons, "etcd", etcd(self.programs, self.directory / "etcd"))
        if "kube-apiserver" in dead:
            self._start(daemons, "kube-apiserver", self.api_server())
        interrupts.wait_for("the API server is ready", self.api().ready, _READY_LIMIT)

    def restart_others(self, daemons: Daemons, dead: Sequence[str]) -> None:
        if "kube-controller-manager" in dead:
            self._start(daemons, "kube-controller-manager", self.controller_manager())
        if "kube-scheduler" in dead:
            self._start(daemons, "kube-scheduler", self.scheduler())
        if _PROXY in dead:
            self.start_proxy(daemons)

    def start_proxy(self, daemons: Daemons) -> None:
        proxy = [self.programs / "kube-proxy", "--config", self.directory / "kube-proxy.json"]
        self._start(daemons, _PROXY, [*_WITH_OWN_RUN, *proxy])

    def _start(self, daemons: Daemons, name: str, argv: Sequence[object]) -> None:
        group = f"{self.slot.name}/{GROUP}"
        entrances = self.trees.entrances(group)
        daemons.start(name, [*network.enter(self.slot, network.CONTROL_PLANE), *argv], entrances)

    def api_server(self) -> list[str | Path]:
        files = self.authority.directory
        certificate, key = self.authority.files(pki.api_server([]))
        admin_certificate, admin_key = self.authority.files(pki.ADMIN)
        front_certificate, front_key = self.authority.files(pki.FRONT_PROXY)
        return flags(
            self.programs / "kube-apiserver",
            etcd_servers="http://127.0.0.1:2379",
            advertise_address=self.slot.control_plane_address,
            secure_port=API_PORT,
            service_cluster_ip_range=self.slot.services,
            tls_cert_file=certificate,
            tls_private_key_file=key,
            client_ca_file=files / "ca.crt",
            kubelet_certificate_authority=files / "ca.crt",
            kubelet_client_certificate=admin_certificate,
            kubelet_client_key=admin_key,
            kubelet_preferred_address_types="InternalIP",
            service_account_issuer="https://kubernetes.default.svc.cluster.local",
            service_account_key_file=files / "service-accounts.pub",
            service_account_signing_key_file=files / "service-accounts.key",
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
            audit_policy_file=self.directory / "audit-policy.json",
            audit_log_path=self.checkout.logs / "audit.log",
            audit_log_maxsize=200,  # MB
            audit_log_maxbackup=2,
            # API servers behind this one, such as metrics-server, are told in headers who asks, and believe whoever has
            # this certificate.
            proxy_client_cert_file=front_certificate,
            proxy_client_key_file=front_key,
            requestheader_client_ca_file=files / "ca.crt",
            requestheader_allowed_names=pki.FRONT_PROXY.user,
            requestheader_username_headers="X-Remote-User",
            requestheader_group_headers="X-Remote-Group",
            requestheader_extra_headers_prefix="X-Remote-Extra-",
        )

    def controller_manager(self) -> list[str | Path]:
        files = self.authority.directory
        kubeconfig = self.kubeconfig(pki.CONTROLLER_MANAGER)
        return flags(
            self.programs / "kube-controller-manager",
            kubeconfig=kubeconfig,
            authentication_kubeconfig=kubeconfig,
            authorization_kubeconfig=kubeconfig,
            use_service_account_credentials="true",
            service_account_private_key_file=files / "service-accounts.key",
            root_ca_file=files / "ca.crt",
            cluster_signing_cert_file=files / "ca.crt",
            cluster_signing_key_file=files / "ca.key",
            leader_elect="false",
            allocate_node_cidrs="false",
            node_monitor_period="2s",
            node_monitor_grace_period="12s",  # a lost node is called unreachable after this
            kube_api_qps=500,
            kube_api_burst=1000,
        )

    def scheduler(self) -> list[str | Path]:
        kubeconfig = self.kubeconfig(pki.SCHEDULER)
        return flags(
            self.programs / "kube-scheduler",
            kubeconfig=kubeconfig,
            authentication_kubeconfig=kubeconfig,
            authorization_kubeconfig=kubeconfig,
            leader_elect="false",
            kube_api_qps=500,
            kube_api_burst=1000,
        )


def etcd(programs: Path, directory: Path) -> list[str | Path]:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        *flags(
            programs / "etcd",
            data_dir=directory,
            listen_client_urls=client,
            advertise_client_urls=client,
            listen_peer_urls=peer,
            initial_advertise_peer_urls=peer,
            initial_cluster=f"default={peer}",
            quota_backend_bytes=8 * 2**30,
            auto_compaction_retention="5m",
        ),
        "--unsafe-no-fsync",  # the cluster does not outlive a power cut anyway
    ]


def proxy_config(kubeconfig: str, slot: Slot, name: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": str(slot.pods),
        "hostnameOverride": name,
        "iptables": {"minSyncPeriod": "200ms"},
        "conntrack": {"maxPerCore": 0, "min": 0},  # these would change the whole machine's limits
    }


def flags(program: Path, **values: object) -> list[str | Path]:
    return [program, *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]
