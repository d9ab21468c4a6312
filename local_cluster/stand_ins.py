"""Stands in for what a data centre would bring: shared volumes and GPUs. Runs beside the cluster, watching it.

`python3 -m local_cluster.stand_ins --help`. For each PersistentVolumeClaim of the default storage class it
makes a directory that every node sees and a PersistentVolume on it, and removes both once the claim is gone.
It gives each real node four `nvidia.com/gpu`, marks the node as having fakes, and does so again whenever a
kubelet that starts anew has reset them.
"""

import argparse
import http.client
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from local_cluster.errors import ClusterError
from local_cluster.kubernetes_api import Access, Api, ApiError, Object
from local_cluster.manifests import PROVISIONER, STORAGE_CLASS

GPU = "nvidia.com/gpu"
GPUS = 4
FAKE_GPUS = "muster.dev/fake-gpus"
SIMULATED = "kwok.x-k8s.io/node"
_EXPLANATION = "muster.dev/fake-gpus-explained"
_RETRY = 1.0  # seconds


def volume_for(claim: Object, directory: PurePosixPath) -> Object:
    """The PersistentVolume of a claim, bound to it from the start."""
    metadata, spec = claim["metadata"], claim["spec"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(directory / volume_name(claim)), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        },
    }


def volume_name(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def wants_volume(claim: Object) -> bool:
    spec = claim["spec"]
    return spec.get("storageClassName") == STORAGE_CLASS and not spec.get("volumeName")


def is_abandoned(volume: Object) -> bool:
    provisioner = volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by")
    return bool(provisioner == PROVISIONER and volume.get("status", {}).get("phase") == "Released")


def lacks_gpus(node: Object) -> bool:
    if SIMULATED in node["metadata"].get("annotations", {}):
        return False  # a simulated node comes with its own
    status = node.get("status", {})
    return any(status.get(field, {}).get(GPU) != str(GPUS) for field in ("capacity", "allocatable"))


class StandIns:
    def __init__(self, new_api: Callable[[], Api], here: Path, inside: PurePosixPath) -> None:
        self._new_api = new_api
        self._here = here  # where the volumes' directories are on this machine
        self._inside = inside  # and where a node sees them

    def run(self) -> None:
        """Never returns."""
        followed = (
            ("/api/v1/persistentvolumeclaims", self.on_claim),
            ("/api/v1/persistentvolumes", self.on_volume),
            ("/api/v1/nodes", self.on_node),
        )
        threads = [threading.Thread(target=self._follow, args=item, daemon=True) for item in followed]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def on_claim(self, api: Api, claim: Object) -> None:
        if not wants_volume(claim):
            return
        directory = self._here / volume_name(claim)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o777)  # pods do not run as root
        try:
            api.create("/api/v1/persistentvolumes", volume_for(claim, self._inside))
        except ApiError as error:
            if error.status != 409:  # it is there already
                raise

    def on_volume(self, api: Api, volume: Object) -> None:
        if is_abandoned(volume):
            shutil.rmtree(self._here / volume["metadata"]["name"], ignore_errors=True)
            api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")

    def on_node(self, api: Api, node: Object) -> None:
        if not lacks_gpus(node):
            return
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        explained = f"{GPU} on this node is made up: there is no device behind it"
        marks = {"labels": {FAKE_GPUS: "true"}, "annotations": {_EXPLANATION: explained}}
        api.merge(path, {"metadata": marks})
        amount = {GPU: str(GPUS)}
        api.merge(f"{path}/status", {"status": {"capacity": amount, "allocatable": amount}})

    def _follow(self, path: str, act: Callable[[Api, Object], None]) -> None:
        while True:
            try:
                self._list_and_watch(path, act)
            except (ClusterError, OSError, http.client.HTTPException, ValueError) as error:
                print(f"{path}: {error}", file=sys.stderr, flush=True)
                time.sleep(_RETRY)

    def _list_and_watch(self, path: str, act: Callable[[Api, Object], None]) -> None:
        api = self._new_api()
        listed = api.get(path)
        for item in listed["items"]:
            act(api, item)
        for event in api.watch(path, listed["metadata"]["resourceVersion"]):
            if event["type"] == "ERROR":
                raise ClusterError(json.dumps(event["object"]))
            if event["type"] != "DELETED":
                act(api, event["object"])


def command(root: Path, python: str, access: Access, here: Path, inside: str | PurePosixPath) -> list[str | Path]:
    """The command line that runs this module from a checkout."""
    return [
        *("env", f"PYTHONPATH={root}", "PYTHONDONTWRITEBYTECODE=1", python, "-m", "local_cluster.stand_ins"),
        *("--host", access.host, "--port", str(access.port), "--authority", access.authority),
        *("--certificate", access.certificate, "--key", access.key),
        *("--storage", here, "--storage-inside", str(inside)),
    ]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python3 -m local_cluster.stand_ins", description=__doc__)
    parser.add_argument("--host", required=True, help="the API server's address")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--authority", type=Path, required=True, help="its certificate authority, PEM")
    parser.add_argument("--certificate", type=Path, required=True, help="who we are, PEM")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--storage", type=Path, required=True, help="where the volumes are on this machine")
    parser.add_argument("--storage-inside", type=PurePosixPath, required=True, help="where the nodes see them")
    given = parser.parse_args(words)
    access = Access(given.host, given.port, given.authority, given.certificate, given.key)
    os.umask(0o022)
    StandIns(lambda: Api(access), given.storage, given.storage_inside).run()


if __name__ == "__main__":
    main(sys.argv[1:])
