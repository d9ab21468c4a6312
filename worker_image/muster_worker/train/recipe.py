"""The recipe interface: model, data, loss and metrics in one class. `muster_worker.recipes.digits` is one to copy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from muster_worker.train.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.distributed.tensor.parallel import ParallelStyle
    from torch.optim import Optimizer
    from torch.utils.data import Dataset

    from muster_worker.train.language_model import LanguageModel


class Recipe(ABC):
    """What is trained. The runtime does the rest: distribution, precision, evaluation, checkpoints, export.

    A sample is a pair `(input, target)`; `input` is a tensor, or a tuple of tensors that the model takes in that order.
    Batches stack samples along a new first dimension, N long. N differs from rank to rank and from step to step.

    Every rank builds the recipe with the same config and must come to the same model and the same samples in
    the same order: torch's random generators are seeded with `config.seed` before `model()` and `datasets()`.
    """

    config_type: ClassVar[type[Config]] = Config
    """The dataclass of the recipe's settings."""

    learning_rate: ClassVar[float] = 0.001
    """Where the job says no `spec.optimisation.learningRate.initial`."""

    maximised: ClassVar[frozenset[str]] = frozenset({"accuracy"})
    """The metrics that are better when higher; all others are better when lower."""

    def __init__(self, config: Any) -> None:
        """`config` is of `config_type`."""
        self.config = config

    @abstractmethod
    def model(self) -> nn.Module:
        """The model with its initial parameters, on the CPU, in float32.

        The names of its `forward`'s parameters become the input names of the exported model.
        """

    @abstractmethod
    def datasets(self) -> tuple[Dataset[Any], Dataset[Any] | None]:
        """Training and validation samples: map-style datasets (`len(d)`, `d[i]`). None: no evaluation is made."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """The mean loss over the N samples of a batch: a scalar, differentiable in `output`."""

    def metrics(self, output: Any, target: Any) -> dict[str, Tensor]:
        """Means over the N samples of a batch, by name: scalars. `accuracy` is reported as `validationAccuracy`.

        `validationLoss` comes from `loss` and need not be here.
        """
        del output, target
        return {}

    def optimizer(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
        """The optimizer; its learning rate is the runtime's to change.

        `parameters`: those that this rank has, or has parts of, each of the shape that it has in the whole model. They
        may be put into groups with settings of their own.
        """
        from torch.optim import AdamW  # noqa: PLC0415 - recipes are described without torch

        return AdamW(parameters, lr=learning_rate)

    def tensor_plan(self, model: nn.Module) -> Mapping[str, ParallelStyle] | None:
        """How processes divide the layers of `model`, in training and in serving: styles by the names of modules.

        As `torch.distributed.tensor.parallel.parallelize_module` takes it, patterns included. What enters and leaves a
        part of `pipeline_layers` has to be whole. None: more than one way of `tensor` is refused.
        """
        del model
        return None

    def pipeline_layers(self, model: nn.Module) -> Sequence[nn.Module] | None:
        """The modules of `model` which, called one after the other, compute what it does.

        Each takes what the one before gives: a tensor or a tuple of tensors, their first dimension the batch. With
        `pipeline`, training and serving divide them among processes. None: more than one way of it is refused.
        """
        del model
        return None

    def embedding(self, model: nn.Module) -> nn.Module | None:
        """The layer of `model` that makes vectors of its only input, of token ids: by that its answers are explained.

        It gives (N, T, width). None: there is none.
        """
        del model
        return None

    def language_model(self, model: nn.Module) -> LanguageModel | None:
        """How `model`, which is ready to be served, generates text. None: it does not.

        Where others compute, `model` is on the device `meta`, without weights, to encode and decode texts alone.
        """
        del model
        return None


def reference_of(recipe: Recipe) -> str:
    """As a manifest names it: `module:Class`."""
    return f"{type(recipe).__module__}:{type(recipe).__qualname__}"
