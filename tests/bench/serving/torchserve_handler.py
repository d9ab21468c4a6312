"""What TorchServe runs: goes into the archive, and so imports nothing of ours."""

from __future__ import annotations

from pathlib import Path

import torch


class Handler:
    """One sample a request; as many requests as TorchServe puts together."""

    def initialize(self, context):
        torch.set_num_threads(1)
        properties = context.system_properties
        program = Path(properties["model_dir"]) / context.manifest["model"]["serializedFile"]
        self._forward = torch.export.load(program).module().forward

    def handle(self, requests, context):
        with torch.inference_mode():
            return self._forward(torch.tensor([request["body"] for request in requests])).tolist()
