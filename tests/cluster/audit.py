"""Which samples a job has been trained on: every one once an epoch, whatever happened meanwhile."""

from __future__ import annotations

import json

from tests.cluster.kube import Kube, kubectl

# Imported before the ranks are started from the same process, so that each of them logs its samples.
PROGRAM = """
import os
os.environ["MUSTER_SAMPLE_LOG"] = os.environ["MUSTER_STORAGE"] + "/samples"
from muster_worker.recipes.digits import Digits
"""
SOURCE = {"configMap": "audited"}
RECIPE = {"name": "audited:Digits", "config": {"epochs": 5000, "batchSize": 64}}

READ = """
import json, os, pathlib
from muster_worker.train.sample_log import surviving_epochs
epochs = surviving_epochs(pathlib.Path('/muster/storage/samples'))
print(json.dumps({epoch: [len(samples), len(set(samples))] for epoch, samples in epochs.items()}))
"""


def provide(kube: Kube) -> None:
    """The recipe as a ConfigMap, to be named by `source` and `recipe`."""
    kubectl("create", "configmap", "audited", "-n", kube.namespace, f"--from-literal=audited.py={PROGRAM}")


def complete_epochs(kube: Kube, pod: str) -> int:
    """Assert that every epoch but the last, which is under way, has used every sample once; return how many."""
    epochs = {int(epoch): counts for epoch, counts in json.loads(kube.run_in(pod, READ)).items()}
    assert sorted(epochs) == list(range(1, len(epochs) + 1))
    complete = [counts for epoch, counts in sorted(epochs.items()) if epoch < max(epochs)]
    assert all(used == distinct == complete[0][0] for used, distinct in complete), complete
    used, distinct = epochs[max(epochs)]
    assert used == distinct
    return len(complete)
