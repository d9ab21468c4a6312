"""What is handed to the components and to `ip`, from nothing but the slot."""

import json
from pathlib import Path

from local_cluster import commands, go_builds, manifests
from local_cluster.checkout import Checkout
from local_cluster.images.engines import ContainerEngine
from local_cluster.kind_provider import KindProvider, cluster_config
from local_cluster.kubernetes_api import path_of
from local_cluster.native import cgroups, network, node, pki
from local_cluster.native.control_plane import ControlPlane, etcd, flags, proxy_config
from local_cluster.native.slots import LAST_SLOT, Slot
from local_cluster.provider import Size


def test_no_two_slots_share_an_address_or_a_name():
    slots = [Slot(number) for number in range(LAST_SLOT + 1)]
    networks = [network_ for slot in slots for network_ in (slot.machines, slot.pods, slot.services)]
    overlaps = [(a, b) for index, a in enumerate(networks) for b in networks[index + 1 :] if a.overlaps(b)]
    assert overlaps == []
    assert len({slot.name for slot in slots}) == len(slots)


def test_a_node_has_its_own_part_of_the_pods_network():
    slot = Slot(2)
    assert slot.node_address(3) == "10.89.2.13"
    assert slot.node_pods(3).subnet_of(slot.pods)
    assert slot.node_pods(3) != slot.node_pods(4)


def test_a_joining_node_is_reached_by_everybody_and_reaches_everybody():
    batches = network.node_batches(Slot(0), 3, [1, 2])
    way_to_3 = "route add 10.144.3.0/24 via 10.89.0.13"
    told = {batch.namespace for batch in batches if way_to_3 in batch.lines}
    assert told == {None, "muster0-cp", "muster0-node-1", "muster0-node-2"}
    (own,) = [batch for batch in batches if batch.namespace == "muster0-node-3"]
    assert "route add 10.144.1.0/24 via 10.89.0.11" in own.lines
    assert "route add 10.144.2.0/24 via 10.89.0.12" in own.lines


def test_only_one_link_is_made_on_the_host():
    (host,) = [batch for batch in network.foundation(Slot(1)) if batch.namespace is None]
    links = [line for line in host.lines if line.startswith("link add")]
    assert links == ["link add muster1 type veth peer name host netns muster1-switch"]


def test_namespaces_of_slot_1_are_not_those_of_slot_10():
    listing = "muster1-cp (id: 3)\nmuster10-cp (id: 4)\nother\nmuster1-node-1\n"
    assert network.namespaces(Slot(1), listing) == ["muster1-cp", "muster1-node-1"]


def test_names_of_flags_are_spelt_as_programs_spell_them():
    assert flags(Path("/bin/x"), leader_elect="false", kube_api_qps=500) == [
        Path("/bin/x"),
        "--leader-elect=false",
        "--kube-api-qps=500",
    ]


def a_control_plane(root: Path) -> ControlPlane:
    trees = cgroups.Hierarchies((root / "cgroup",), unified=True)
    return ControlPlane(Checkout(root), Slot(0), Path("/programs"), trees)


def test_the_api_server_writes_an_audit_log_into_the_checkout(tmp_path):
    argv = a_control_plane(tmp_path).api_server()
    assert f"--audit-log-path={tmp_path}/.cluster/logs/audit.log" in argv
    assert {"level": "Metadata"} in manifests.AUDIT_POLICY["rules"]


def test_api_servers_behind_the_first_believe_it_by_its_certificate(tmp_path):
    plane = a_control_plane(tmp_path)
    certificate, key = plane.authority.files(pki.FRONT_PROXY)
    assert {
        f"--proxy-client-cert-file={certificate}",
        f"--proxy-client-key-file={key}",
        f"--requestheader-client-ca-file={plane.authority.certificate}",
        "--requestheader-allowed-names=front-proxy-client",
    } <= {*map(str, plane.api_server())}


def test_a_lost_node_is_noticed_after_12_seconds(tmp_path):
    assert "--node-monitor-grace-period=12s" in a_control_plane(tmp_path).controller_manager()
    assert node.kubelet_config("10.89.0.11", "/muster0/node-1", Slot(0))["nodeLeaseDurationSeconds"] == 8


def test_controllers_may_ask_as_much_as_a_benchmark_needs(tmp_path):
    plane = a_control_plane(tmp_path)
    assert "--kube-api-qps=500" in plane.controller_manager()
    assert "--kube-api-qps=500" in plane.scheduler()


def test_etcd_keeps_its_data_where_it_is_told():
    assert "--data-dir=/state/etcd" in etcd(Path("/programs"), Path("/state/etcd"))


def test_a_kubelet_stays_in_its_cgroups_and_asks_the_clusters_dns():
    config = node.kubelet_config("10.89.0.11", "/muster0/node-1", Slot(0))
    assert config["cgroupRoot"] == "/muster0/node-1"
    assert config["clusterDNS"] == ["10.96.0.10"]
    assert config["failCgroupV1"] is False


def test_a_kube_proxy_changes_no_limit_of_the_machine():
    assert proxy_config("/k", Slot(0), "node-1")["conntrack"] == {"maxPerCore": 0, "min": 0}


def test_containerd_makes_no_directory_outside_of_the_node():
    assert 'disabled_plugins = ["io.containerd.internal.v1.opt"' in node.containerd_config()
    assert node.PAUSE_IMAGE in node.containerd_config()


def test_pods_get_addresses_of_their_node():
    bridge = node.cni_config(Slot(1), 2)["plugins"][0]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.145.2.0/24"}]]


def test_dns_survives_the_loss_of_a_node():
    (deployment,) = [found for found in manifests.dns("10.96.0.10") if found["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 2
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread[0]["topologyKey"] == "kubernetes.io/hostname"


def test_objects_are_applied_where_they_live():
    paths = [path_of(manifest) for manifest in (manifests.storage_class(), *manifests.dns("10.96.0.10"))]
    assert paths[0] == "/apis/storage.k8s.io/v1/storageclasses/shared"
    assert "/api/v1/namespaces/kube-system/services/kube-dns" in paths
    assert "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:coredns" in paths


def test_kind_gets_a_zone_and_the_shared_storage_on_every_worker():
    config = cluster_config(Checkout(Path("/checkout")), Size(3))
    workers = [found for found in config["nodes"] if found["role"] == "worker"]
    assert [found["labels"]["topology.kubernetes.io/zone"] for found in workers] == ["zone-1", "zone-2", "zone-3"]
    assert {found["extraMounts"][0]["hostPath"] for found in workers} == {"/checkout/.cluster/storage"}
    kubeadm = json.loads(config["kubeadmConfigPatches"][0])
    assert kubeadm["controllerManager"]["extraArgs"]["node-monitor-grace-period"] == "12s"


def test_kind_is_given_an_archive_of_what_podman_has(monkeypatch, tmp_path):
    """Its `load docker-image` asks Docker for the image, whatever the nodes run in."""
    ran = []
    (tmp_path / "muster").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(go_builds, "build", lambda _: Path("/programs"))
    monkeypatch.setattr(commands, "run", lambda *words, env=None: ran.append(words))
    KindProvider(Checkout(Path("/checkout")), ContainerEngine("podman")).load(["localhost/muster:dev"])
    (*save, archive, image), (kind, *load, loaded, _, _) = ran
    assert (*save, image) == ("podman", "save", "--output", "localhost/muster:dev")
    assert (kind, *load, loaded) == (Path("/programs/kind"), "load", "image-archive", archive)
