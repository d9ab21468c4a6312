"""The training of one recipe on one rank: state, step, epoch."""

from __future__ import annotations

import inspect
import logging
import random
import time
from dataclasses import asdict, dataclass, field
from itertools import tee
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import SGD
from torch.utils.data import IterableDataset

from muster_worker.train.batches import batches, to_device
from muster_worker.train.config import FIELD, config_as_json
from muster_worker.train.device import XLA, carry_out, seed_device
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.evaluation import evaluate, evaluate_alone, measured
from muster_worker.train.export import Trained, check_outputs, named_outputs
from muster_worker.train.norms import of_one_number
from muster_worker.train.own_time import Awake, UpToTheFirstWait
from muster_worker.train.precision import Precision
from muster_worker.train.process_group import StepAgreement, everywhere, leave_together
from muster_worker.train.recipe import reference_of
from muster_worker.train.schedule import Schedule
from muster_worker.train.sharding import EpochPlan, share
from muster_worker.train.strategy import distributed
from muster_worker.train.strategy.base import Batch, divide_groups, local
from muster_worker.train.strategy.layout import Layout
from muster_worker.train.teacher import Teacher
from muster_worker.train.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from torch.optim import Optimizer
    from torch.utils.data import Dataset

    from muster_worker.train.environment import Environment
    from muster_worker.train.process_group import Agreed
    from muster_worker.train.recipe import Recipe
    from muster_worker.train.sharding import Step

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass
class Progress:
    """How far training is; the same on all ranks, at any world size."""

    step: int = 0
    """Updates of the parameters made."""

    epoch: int = 0
    """Epochs completed."""

    position: int = 0
    """Samples used of the epoch that is under way, over all ranks."""

    epoch_loss: float = 0.0
    """Sum of the losses of those samples."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation."""

    history: list[dict[str, float]] = field(default_factory=list)
    """Of every evaluation, with its epoch and step."""


class Trainer:
    """Built alike on every rank, by itself; from `connect` on, every method that trains or evaluates is collective.

    `begin_with` and `learn_from` come before.
    """

    def __init__(self, recipe: Recipe, environment: Environment, device: torch.device) -> None:
        self.recipe = recipe
        self.progress = self.published = Progress()
        self.checkpoint = ""
        """Which one has this state, by an id that it shares with no other: empty before the first."""

        self.leaves: Callable[[], bool] = lambda: False
        """Whether this rank was told to stop."""

        self.layout = Layout.of(environment.strategy, environment.rank, environment.world_size)
        self._initial, self._distillation = environment.initial_model, environment.distillation
        self._teacher: Teacher | None = None
        self._device = device
        self._reference = reference_of(recipe)

        # A model that is divided need not fit the device: its parts are moved there. And XLA would compile a program
        # for every look at a few samples.
        self._built_on = CPU if self.layout.divides or device.type == XLA else device
        self.model, self._training, self._validation = built(recipe, self._built_on)
        self._check_trained()
        self._bytes = sum(one.nbytes for one in self.model.parameters())
        self._plan = EpochPlan(
            self._count("training", self._training), recipe.config.batch_size, environment.gradient_accumulation
        )

        self._watches = _watches(environment, recipe)
        self._max_norm = environment.max_gradient_norm
        self._patience = environment.early_stopping.patience if environment.early_stopping else None
        self._rate = environment.learning_rate
        self._schedule = Schedule(self._rate, recipe, self.total_steps)
        self._precision = Precision.on(device, recipe.config.precision, self.layout)
        names = self._metric_names()
        self._schedule.check(names)
        for watch in self._watches.values():
            watch.check(names)

    def connect(self) -> None:
        """Gives every rank rank 0's parameters, or its part of them, and makes gradients common. Collective."""
        self._strategy = distributed(self.layout, self.recipe, self.model, self._device)
        self._optimizer = self._chosen_optimizer(list(self._strategy.module.parameters()))
        self._check_optimizer()
        divide_groups(self._optimizer)
        self._schedule.drive(self._optimizer)
        self._agreement = StepAgreement()
        self._own_time = Awake() if self.layout.divides else UpToTheFirstWait()

    def _chosen_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """The recipe's, or where nothing of this rank's part is trained, one that never has anything to do.

        A recipe may leave out what is not trained, and no optimizer takes no parameters at all.
        """
        rate = self._rate.initial or self.recipe.learning_rate
        if any(one.requires_grad for one in parameters):
            return self.recipe.optimizer(parameters, rate)
        return SGD(parameters, lr=rate)

    def _check_trained(self) -> None:
        if not any(one.requires_grad for one in self.model.parameters()):
            raise ConfigurationError(
                f"{self._reference}: no parameter of its model is trained, wanted some with requires_grad"
            )

    def _check_optimizer(self) -> None:
        closure = inspect.signature(self._optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"{self._reference}: found the optimizer {type(self._optimizer).__name__}, which computes the loss"
                " again and again in a step, wanted one that takes the gradients that are there, such as AdamW"
            )

    @property
    def compares_ranks(self) -> bool:
        """Whether a step tells what each rank took for its part of it, without what it waited for others.

        On a GPU it is the GPU that waits, of which the thread knows nothing.
        """
        return self.layout.independent or (self.layout.divides and self._device.type == CPU.type)

    def parameter_bytes(self) -> tuple[int, int]:
        """Of this rank's parts, and of the whole. Gradients and the optimizer's state are divided alike."""
        return sum(local(one.data).nbytes for one in self._strategy.module.parameters()), self._bytes

    def _count(self, kind: str, samples: Dataset[Any]) -> int:
        if isinstance(samples, IterableDataset) or not hasattr(samples, "__len__"):
            raise ConfigurationError(
                f"{self._reference}: its {kind} set is a {type(samples).__name__}, which is read one by one, wanted one"
                " that has a length and gives each sample by its number: len(d) and d[i]"
            )
        count = len(samples)
        if count == 0:
            instead = ", or None where there are none" if kind == "validation" else ""
            raise ConfigurationError(f"{self._reference}: its {kind} set is empty, wanted at least one sample{instead}")
        return count

    def _metric_names(self) -> set[str]:
        """What an evaluation will report, from one sample."""
        if self._validation is not None:
            self._count("validation", self._validation)
        samples = self._training if self._validation is None else self._validation
        input_, target = to_device(next(batches(samples, [[0]])), self._built_on)
        for one in input_ if isinstance(input_, tuple) else (input_,):
            if not isinstance(one, torch.Tensor):
                raise ConfigurationError(
                    f"{self._reference}: a sample's input is a {type(one).__name__}, wanted a tensor, or a tuple of"
                    " those that forward takes"
                )
        # Now, and not when it is published, which may be days later.
        look = self.model.register_forward_hook(lambda _, __, output: check_outputs(named_outputs(output), 1))
        with of_one_number(self.model) as norms, torch.no_grad():
            self.model.eval()
            values = measured(self.recipe, self.model, input_, target, self._precision)
        self.model.train()
        look.remove()
        self._check_norms(norms)
        for name, value in values.items():
            if value.ndim:
                raise ConfigurationError(
                    f"{self._reference}: its {name} has the shape {list(value.shape)}, wanted one number: the mean over"
                    " the samples of a batch"
                )
        return {"loss"} if self._validation is None else {"loss", *values}

    def _check_norms(self, norms: dict[str, nn.Module]) -> None:
        """Raises ConfigurationError where a process computes one sample of a batch alone, of which these make nothing.

        torch would raise at that batch, which is the last of an epoch.
        """
        # Those that a recipe keeps in evaluation have theirs.
        name, layer = next(((name, layer) for name, layer in norms.items() if layer.training), ("", None))
        if layer is None or self._computed_together(self._plan.smallest_batch) > 1:
            return
        raise ConfigurationError(
            f"{FIELD}.batchSize: found {self._plan.batch_size}, by which a process computes one of {self._plan.samples}"
            f" samples alone, and {name} ({type(layer).__name__}) has no statistics of one, wanted a batchSize or a"
            " number of processes that leaves each two in every batch, or another layer, such as GroupNorm"
        )

    def _computed_together(self, samples: int) -> int:
        """Of a batch of so many samples, by one process at once; where these differ, the fewest."""
        return self.layout.computed_together(samples)

    @property
    def total_steps(self) -> int:
        """Of the whole training; fewer once it has ended early."""
        return self.progress.step if self.stopped else self._plan.steps * int(self.recipe.config.epochs)

    @property
    def epoch_is_over(self) -> bool:
        return self.progress.position == self._plan.samples

    @property
    def complete(self) -> bool:
        return self.progress.epoch >= self.recipe.config.epochs or self.stopped

    @property
    def stopped(self) -> bool:
        """Whether it ends before the last epoch, for nothing gets better."""
        return self._patience is not None and self._watches["stopping"].since >= self._patience

    @property
    def best_step(self) -> int | None:
        """The step after which the metric was best whose best checkpoint is kept; None where none is."""
        return self._watches["best"].step if "best" in self._watches else None

    @property
    def learning_rate(self) -> float:
        return self._schedule.learning_rate

    def rest_of_epoch(self) -> Iterator[tuple[Step, list[list[int]], Iterator[Any]]]:
        """The steps left in this epoch: each with this rank's sample indices and the stream of their batches."""
        order = epoch_order(self.recipe.config.seed, self.progress.epoch, self._plan.samples)
        steps = self._plan.steps_from(self.progress.position)
        # As they are needed: an epoch of many samples has more indices than fit in lists.
        shares, to_load = tee((step, [self._share(order, batch) for batch in step.batches]) for step in steps)
        # A rank without a sample in a batch takes the batch's first with no weight: the others wait for it.
        loaded = self._own_time.reading(
            batches(
                self._training,
                (
                    mine or [int(order[batch.start])]
                    for step, parts in to_load
                    for batch, mine in zip(step.batches, parts, strict=True)
                ),
            )
        )
        for step, parts in shares:
            yield step, parts, loaded

    def _share(self, order: torch.Tensor, batch: range) -> list[int]:
        mine = share(batch, self.layout.share, self.layout.data)
        indices: list[int] = order[mine.start : mine.stop].tolist()
        return indices

    def train_step(
        self, step: Step, shares: list[list[int]], loaded: Iterator[Any], *, leave: bool, save: bool
    ) -> Agreed:
        """One update by the mean gradient over the step's samples, whatever their split over ranks and batches."""
        began = self._own_time()
        seed_everything(self._device, self.recipe.config.seed, self.progress.step, self.layout.share)
        self._schedule.before_step(self.progress.step)
        self._optimizer.zero_grad()
        loss_sum = 0.0
        for number, mine in enumerate(shares, start=1):
            last = number == len(shares)
            self._strategy.start_batch(last=last)
            # Gradients are averaged over the shares, of what is here a part of the mean already.
            batch = self._batch(loaded, len(mine) * self.layout.data / step.samples)

            def told(loss: float, count: int = len(mine), last: bool = last) -> None:
                nonlocal loss_sum
                loss_sum += loss * count if self.layout.speaks else 0.0
                if last:
                    seconds = self._own_time() - began
                    self._agreement.start(leave=leave, save=save, loss=loss_sum / step.samples, seconds=seconds)

            self._strategy.compute(batch, self._precision, told)
        self._strategy.finish_step()
        self._update()
        agreed = self._agreement.wait()
        self.progress.step += 1
        self.progress.position = step.stop
        self.progress.epoch_loss += agreed.loss * step.samples
        return agreed

    def _update(self) -> None:
        """By gradients that are common, clipped where that is asked for: as one vector, by its Euclidean norm."""
        if self._max_norm is not None:
            self._precision.unscale(self._optimizer)
            # As torch's clip_grad_norm_ has it, whose own norm knows nothing of a pipeline or of servers.
            scale = float(self._max_norm / (self._strategy.gradient_norm() + 1e-6))
            if scale < 1:
                for gradient in self._strategy.gradients():
                    gradient.mul_(scale)
        self._precision.step(self._optimizer)
        self._strategy.finish_update()

    def _batch(self, loaded: Iterator[Any], weight: float) -> Batch:
        """The next of `loaded`."""
        input_, target = to_device(next(loaded), self._device)
        inputs = input_ if isinstance(input_, tuple) else (input_,)
        if self._teacher is None:
            return Batch(inputs, target, self.recipe.loss, weight)
        return Batch(inputs, self._teacher.targets(inputs, target), self._teacher.loss, weight)

    def finish_epoch(self) -> dict[str, float]:
        """Evaluates, adapts the learning rate, begins the next epoch; gives the metrics.

        Raises Left, with nothing changed, where a rank is told to stop meanwhile: an evaluation may take long.
        """
        progress = self.progress
        metrics = {"loss": progress.epoch_loss / self._plan.samples}
        if self._validation is not None:
            metrics |= self._evaluated(self._validation)
        self._schedule.after_evaluation(metrics)
        progress.epoch += 1
        progress.position = 0
        progress.epoch_loss = 0.0
        progress.metrics = metrics
        for watch in self._watches.values():
            watch.look(metrics, progress.step)
        progress.history.append({"epoch": progress.epoch, "step": progress.step, **metrics})
        return metrics

    def _evaluated(self, validation: Dataset[Any]) -> dict[str, float]:
        model = self._strategy.evaluated()
        return evaluate(
            *(self.recipe, model, validation, self._precision, self._device, self.layout),
            before_each=lambda: leave_together(requested=self.leaves()),
        )

    def evaluate_alone(self, model: nn.Module) -> dict[str, float]:
        """The metrics of another model, on the CPU of this rank, which measures every sample. Not collective."""
        if self._validation is None:
            return {}
        return evaluate_alone(self.recipe, model, self._validation, Precision(torch.float32, CPU.type), CPU)

    def tensors(self) -> dict[str, Any]:
        """The part of the state that torch.distributed.checkpoint holds, by names that no strategy changes.

        An optimizer's settings are the recipe's and the job's, as are its groups of parameters, and not kept. Before
        the first step, it has a state of the form that it will have, of each parameter.
        """
        # Of an optimizer that has no state, torch makes one up, and leaves it there: zeros that count as a step. It may
        # be one of several that have parts of the model, whose parameters no gradient has reached yet.
        made_up = not self._optimizer.state
        model, optimizer = get_state_dict(self._strategy.module, self._optimizer)
        state = {} if made_up and self.progress.step else optimizer["state"]
        if made_up:
            self._optimizer.state.clear()
        return self._writable({"model": model, "optimizer": state})

    def _writable(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Files know nothing of XLA devices, nor do messages from one rank to another."""
        if self._device.type != XLA:
            return tensors
        carry_out(self._device)
        moved: dict[str, Any] = to_device(tensors, CPU)
        return moved

    def state(self) -> dict[str, Any]:
        """The rest of the state, as JSON. Random numbers need none: they follow from seed, step and rank."""
        return {
            "identity": self._identity(),
            "progress": asdict(self.progress),
            "schedule": self._schedule.state_dict(),
            "precision": self._precision.state_dict(),
            "watches": {name: watch.state_dict() for name, watch in self._watches.items()},
        }

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on with this job to be continued. More epochs may be asked for later."""
        config = config_as_json(self.recipe.config)
        del config["epochs"]
        return {
            "recipe": self._reference,
            "samples": self._plan.samples,
            "gradientAccumulation": self._plan.accumulation,
            "initialModel": self._initial.sha256 if self._initial else None,
            "distillation": asdict(self._distillation) if self._distillation else None,
            **{f"config.{name}": value for name, value in config.items()},
        }

    def restore(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        """Goes on from what `tensors` and `state` gave.

        Of a parameter that no gradient has reached, an optimizer may have no state, and `tensors` none.
        """
        module = self._strategy.module
        _, mine = get_state_dict(module, self._optimizer)
        made_up = {name: one for name, one in mine["state"].items() if name not in tensors["optimizer"]}
        set_state_dict(
            module,
            self._optimizer,
            model_state_dict=tensors["model"],
            optim_state_dict={"state": tensors["optimizer"] | made_up, "param_groups": mine["param_groups"]},
        )
        parameters = dict(self.model.named_parameters())
        for name in made_up:
            self._optimizer.state.pop(parameters[name], None)
        self.progress = Progress(**state["progress"])
        self._schedule.load_state_dict(state["schedule"])
        self._precision.load_state_dict(state["precision"])
        for name, watch in self._watches.items():
            watch.load_state_dict(state["watches"].get(name))

    def weights(self) -> dict[str, Any]:
        """The part of `tensors` that is the model."""
        return self._writable({"model": get_model_state_dict(self._strategy.module)})

    def take(self, weights: dict[str, Any], state: dict[str, Any]) -> None:
        """Has the model of an earlier step, to publish it: what is told of a trained model is from that step."""
        set_model_state_dict(self._strategy.module, weights["model"])
        self.published = Progress(**state["progress"])

    def trained(self) -> Trained | None:
        """What is exported, with a few real samples as examples; None on all ranks but the first. Collective.

        Raises ConfigurationError where training has diverged.
        """
        weights = self._strategy.whole_weights()
        seed_everything(self._device, self.recipe.config.seed)
        with torch.no_grad():  # what a module computes of its parameters, as weight_norm's does, can then be copied
            model = self.recipe.model() if self.layout.rank == 0 else None
        everywhere(lambda: self._check_finite(model, weights))
        if model is None:
            return None
        model.load_state_dict(weights)
        dataset = self._training if self._validation is None else self._validation
        count = min(3, len(dataset))
        input_, _ = next(batches(dataset, [range(count)]))
        language_model = self.recipe.language_model(model)
        return Trained(
            model=model,
            examples=input_ if isinstance(input_, tuple) else (input_,),
            metrics=self.published.metrics,
            origin=self.origin(),
            generation={"context": language_model.context} if language_model is not None else None,
        )

    def _check_finite(self, untrained: nn.Module | None, weights: dict[str, Any]) -> None:
        """Raises ConfigurationError. What is not finite in the untrained model, such as a mask, need not be."""
        for name, tensor in untrained.state_dict().items() if untrained is not None else ():
            if not weights[name].isfinite().all() and tensor.isfinite().all():
                raise ConfigurationError(
                    f"training diverged: {name} is not finite after step {self.published.step}: lower"
                    " spec.optimisation.learningRate.initial, or set spec.optimisation.maxGradientNorm, and give the"
                    " job another spec.storage.path, or remove the checkpoints there"
                )

    def origin(self) -> dict[str, Any]:
        """What tells one trained model from another, of the same path as well: there may have been another training."""
        return {
            "recipe": self._reference,
            "config": config_as_json(self.recipe.config),
            "step": self.published.step,
            "epoch": self.published.epoch,
            "checkpoint": self.checkpoint,
        }

    def begin_with(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes the parameters from a trained model; raises ConfigurationError naming what does not fit."""
        mine = self.model.state_dict()
        for name in sorted(mine.keys() | weights.keys()):
            if name not in weights:
                raise ConfigurationError(f"spec.initialModel: it has no {name}, which the recipe's model has")
            if name not in mine:
                raise ConfigurationError(f"spec.initialModel: it has {name}, which the recipe's model has not")
            if mine[name].shape != weights[name].shape:
                raise ConfigurationError(
                    f"spec.initialModel: its {name} has the shape {tuple(weights[name].shape)}, wanted "
                    f"{tuple(mine[name].shape)} as in the recipe's model"
                )
        self.model.load_state_dict(weights)

    def learn_from(self, teacher: nn.Module) -> None:
        """Has `teacher` tell what it makes of each sample; raises ConfigurationError where the two do not fit."""
        assert self._distillation is not None, "who has a teacher was told how to learn"
        input_, _ = to_device(next(batches(self._training, [range(min(2, len(self._training)))])), self._built_on)
        inputs = input_ if isinstance(input_, tuple) else (input_,)
        Teacher(teacher, self._distillation, self.recipe, self._built_on).check(self.model, inputs)
        self._teacher = Teacher(teacher, self._distillation, self.recipe, self._device)

    def check_same_job(self, state: dict[str, Any], where: object) -> None:
        """Raises ConfigurationError when a checkpoint was made by another recipe, config or data set."""
        mine, theirs = self._identity(), state["identity"]
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise ConfigurationError(
                    f"spec.storage.path: the checkpoints in {where} were made with {name} = {theirs.get(name)}, "
                    f"this job has {value}: give the job another path, or remove them"
                )


def _watches(environment: Environment, recipe: Recipe) -> dict[str, Watch]:
    watches = {}
    if environment.checkpoint.best_by:
        watches["best"] = Watch("spec.checkpoint.bestBy", environment.checkpoint.best_by, recipe)
    if stopping := environment.early_stopping:
        field = "spec.optimisation.earlyStopping.metric"
        watches["stopping"] = Watch(field, stopping.metric, recipe, stopping.minimum_change)
    return watches


def built(recipe: Recipe, device: torch.device) -> tuple[nn.Module, Dataset[Any], Dataset[Any] | None]:
    """The model and the training and validation samples: the same wherever and whenever they are built."""
    seed_everything(device, recipe.config.seed)
    model, datasets = recipe.model().to(device), recipe.datasets()
    if not isinstance(datasets, (tuple, list)) or len(datasets) != 2:
        raise ConfigurationError(
            f"{reference_of(recipe)}: its datasets() gives a {type(datasets).__name__},"
            " wanted a pair: samples for training, and for validation, which may be None"
        )
    training, validation = datasets
    return model, training, validation


def seed_everything(device: torch.device, *numbers: int) -> None:
    """Random state is a function of where training is, so that going on from a checkpoint repeats it exactly."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    # Not torch.manual_seed: for every kind of device that is not there it notes the whole stack as text, each time.
    torch.default_generator.manual_seed(seed)
    seed_device(device, seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - data sets may draw from the global generator


def epoch_order(seed: int, epoch: int, samples: int) -> torch.Tensor:
    """The order of the samples in an epoch (int64, shape (samples,)), the same on every rank."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64)  # of more, torch takes none
    return torch.randperm(samples, generator=generator)


class Throughput:
    """Samples a second over all ranks since the last reading, evaluation and checkpoints left out."""

    def __init__(self) -> None:
        self._samples = 0
        self._seconds = 0.0
        self._started = 0.0

    def start_step(self) -> None:
        self._started = time.monotonic()

    def end_step(self, samples: int) -> None:
        self._samples += samples
        self._seconds += time.monotonic() - self._started

    def read(self) -> float:
        rate = self._samples / self._seconds if self._seconds else 0.0
        self._samples, self._seconds = 0, 0.0
        return rate
