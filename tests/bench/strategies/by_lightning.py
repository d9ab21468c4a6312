"""The same by Lightning's Trainer: `by_lightning.py STRATEGY MODULE:CLASS` under torchrun."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.utils.data import DataLoader

from muster_worker.train.reference import load_recipe
from tests.bench.strategies.plain import SHARE_DATA
from tests.bench.throughput import libuv

if TYPE_CHECKING:
    from torch import Tensor, nn

    from muster_worker.train import Recipe


class Trained(LightningModule):
    """The recipe, in Lightning's words."""

    def __init__(self, recipe: Recipe, strategy: str) -> None:
        super().__init__()
        self._recipe, self._divided = recipe, strategy
        self._model: Any = recipe.model()
        self._done = False

    def configure_model(self) -> None:
        if self._done:
            return
        self._done = True
        if self._divided == "fsdp":
            mesh = self.device_mesh["data_parallel"]
            for block in self._model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self._model, mesh=mesh)
        elif self._divided == "tensor":
            parallelize_module(self._model, self.device_mesh["tensor_parallel"], self._recipe.tensor_plan(self._model))

    def forward(self, input_: Tensor) -> Any:
        return self._model(input_)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        input_, target = batch
        return self._recipe.loss(self(input_), target)

    def configure_optimizers(self) -> Any:
        parameters: list[nn.Parameter] = list(self.parameters())
        divided = [[one for one in parameters if hasattr(one, "to_local") == kind] for kind in (True, False)]
        return self._recipe.optimizer([{"params": group} for group in divided if group], self._recipe.learning_rate)


def main() -> None:
    strategy, reference = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    recipe = load_recipe(reference, "{}")
    libuv.do_without()
    ranks = int(os.environ["WORLD_SIZE"])
    seed_everything(recipe.config.seed, verbose=False)
    shares = ranks if strategy in SHARE_DATA else 1
    by: Any = DDPStrategy(process_group_backend="gloo")
    if strategy != "ddp":
        by = ModelParallelStrategy(shares, ranks // shares, process_group_backend="gloo")
    training, _ = recipe.datasets()
    Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=by,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Trained(recipe, strategy), DataLoader(training, recipe.config.batch_size // shares, shuffle=True))


if __name__ == "__main__":
    main()
