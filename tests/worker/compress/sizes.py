"""How large a published model is."""

from __future__ import annotations

from muster_worker.train.model_directory import WEIGHTS, load_model, summary


def directory_bytes(directory):
    """Of an intact model directory: all its files together, and the weights file alone."""
    model = load_model(directory)
    return summary(model).bytes, model.description["files"][WEIGHTS]["bytes"]
