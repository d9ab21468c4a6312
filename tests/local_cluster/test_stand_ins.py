"""Volumes and GPUs that stand in for real ones."""

from pathlib import PurePosixPath

import pytest

from local_cluster.kubernetes_api import ApiError
from local_cluster.manifests import PROVISIONER
from local_cluster.stand_ins import FAKE_GPUS, GPU, SIMULATED, StandIns, is_abandoned, lacks_gpus, wants_volume

CLAIM = {
    "metadata": {"name": "data", "namespace": "team", "uid": "u-1"},
    "spec": {
        "storageClassName": "shared",
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
    },
}


class RecordingApi:
    def __init__(self, refuse: ApiError | None = None) -> None:
        self.refuse = refuse
        self.calls = []

    def create(self, path, body):
        self.calls.append(("create", path, body))
        if self.refuse:
            raise self.refuse

    def merge(self, path, body):
        self.calls.append(("merge", path, body))

    def delete(self, path):
        self.calls.append(("delete", path, None))


def stand_ins(tmp_path) -> StandIns:
    return StandIns(RecordingApi, tmp_path, PurePosixPath("/run/muster/storage"))


def test_a_claim_gets_a_directory_that_anybody_may_write_and_a_volume_bound_to_it(tmp_path):
    api = RecordingApi()
    stand_ins(tmp_path).on_claim(api, CLAIM)
    ((_, path, volume),) = api.calls
    assert (tmp_path / "pvc-u-1").stat().st_mode & 0o777 == 0o777
    assert path == "/api/v1/persistentvolumes"
    assert volume["spec"]["hostPath"]["path"] == "/run/muster/storage/pvc-u-1"
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volume["spec"]["claimRef"]["uid"] == "u-1"


def test_a_volume_that_is_there_already_is_fine_and_other_refusals_are_not(tmp_path):
    stand_ins(tmp_path).on_claim(RecordingApi(ApiError(409, "exists")), CLAIM)
    with pytest.raises(ApiError):
        stand_ins(tmp_path).on_claim(RecordingApi(ApiError(403, "forbidden")), CLAIM)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"storageClassName": "shared"}, True),
        ({"storageClassName": "other"}, False),
        ({}, False),
        ({"storageClassName": "shared", "volumeName": "bound"}, False),
    ],
)
def test_only_unbound_claims_of_our_class_get_a_volume(spec, wanted):
    assert wants_volume({"metadata": {}, "spec": spec}) is wanted


@pytest.mark.parametrize(
    ("provisioner", "phase", "abandoned"),
    [(PROVISIONER, "Released", True), (PROVISIONER, "Bound", False), ("somebody", "Released", False)],
)
def test_only_our_own_released_volumes_go(provisioner, phase, abandoned):
    annotations = {"pv.kubernetes.io/provisioned-by": provisioner}
    assert is_abandoned({"metadata": {"annotations": annotations}, "status": {"phase": phase}}) is abandoned


def test_a_released_volume_goes_with_its_data(tmp_path):
    api = RecordingApi()
    (tmp_path / "pvc-u-1" / "deep").mkdir(parents=True)
    metadata = {"name": "pvc-u-1", "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}}
    stand_ins(tmp_path).on_volume(api, {"metadata": metadata, "status": {"phase": "Released"}})
    assert not (tmp_path / "pvc-u-1").exists()
    assert api.calls == [("delete", "/api/v1/persistentvolumes/pvc-u-1", None)]


def a_node(gpus: str | None, **annotations: str):
    amounts = {"cpu": "2"} | ({GPU: gpus} if gpus else {})
    status = {"capacity": amounts, "allocatable": amounts}
    return {"metadata": {"name": "node-1", "annotations": annotations}, "status": status}


@pytest.mark.parametrize(
    ("node", "lacks"),
    [
        (a_node(None), True),
        (a_node("0"), True),  # what a kubelet that starts anew makes of it
        (a_node("4"), False),
        (a_node("8", **{SIMULATED: "fake"}), False),
    ],
)
def test_a_node_without_its_four_gpus_is_noticed(node, lacks):
    assert lacks_gpus(node) is lacks


def test_a_node_is_given_gpus_and_the_mark_that_they_are_fake(tmp_path):
    api = RecordingApi()
    stand_ins(tmp_path).on_node(api, a_node(None))
    (_, path, marks), (_, status_path, amounts) = api.calls
    assert path == "/api/v1/nodes/node-1"
    assert marks["metadata"]["labels"] == {FAKE_GPUS: "true"}
    assert status_path == "/api/v1/nodes/node-1/status"
    assert amounts["status"]["allocatable"] == {GPU: "4"}
