"""What turns a loss into a step: gradients, clipping, optimizers, over a group of workers.

Every worker computes its share of a batch; a loss handed to an engine is the worker's part of a
sum over the workers, and of as many parts as the worker has cut its share into. `TorchEngine`
keeps a whole copy of everything in each worker; `DeepSpeedEngine` (`deepspeed_engine.py`) shares
optimizer states, gradients and weights out among them. All workers call the methods of an engine
in the same order.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from difflm_core import collective
from difflm_core.errors import ConfigError
from difflm_core.parallel import ALONE, Worker

ADAM_BETAS = (0.9, 0.98)
# Parameters by name. Moving averages and checkpoints hold the same names.
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class OptimizerOptions:
    """How parameters move.

    Attributes:
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon.
        weight_decay: Weight decay of both.
        clip_norm: Largest norm of the gradient of all parameters together.
        matrices: Names of the parameters that Muon trains; AdamW trains the others.
        late: Beginnings of the names of parameters that only a later phase trains.
        pretrained: Names of the parameters that do not start at random.
        pretrained_lr: Learning rate of AdamW for those.
    """

    lr: float
    matrix_lr: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    matrices: frozenset[str] = frozenset()
    late: tuple[str, ...] = ()
    pretrained: frozenset[str] = frozenset()
    pretrained_lr: float = 0.0

    def lr_of(self, name: str) -> float:
        """AdamW's learning rate of a parameter."""
        return self.pretrained_lr if name in self.pretrained else self.lr


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; those of a frozen model are not among them."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class Sharding:
    """What the workers of a group share out among them, instead of each keeping all of it.

    Attributes:
        zero_stage: ZeRO stage (Rajbhandari et al. 2020): 0 nothing, 1 optimizer states, 2 also
            gradients, 3 also weights.
        offload: What rests in the memory of the host while a GPU does not need it.
    """

    zero_stage: int = 0
    offload: Literal["none", "optimizer", "all"] = "none"


WHOLE = Sharding()


class Engine(Protocol):
    """Trains the parameters of a module."""

    def __call__(self, *inputs: Any) -> Any:
        """Call the module, in training or evaluation mode as it is."""
        ...

    @property
    def module(self) -> nn.Module:
        """The module itself, for its mode and its device."""
        ...

    def begin_phase(self, trained: Callable[[str], bool]) -> None:
        """Train only parameters with these names from now on."""
        ...

    def backward(self, part: Tensor) -> None:
        """Add the gradients of a part of the loss."""
        ...

    def step(self, rate: float) -> float:
        """Move the parameters, with `rate` times their learning rates, by the summed gradients.

        Returns the norm of the gradients before clipping; if it is not finite, nothing moves.
        """
        ...

    def weights(self) -> Weights:
        """What this worker keeps of every parameter, to be read."""
        ...

    def overwrite(self, weights: Weights) -> None:
        """Go on from these values, as `weights` gives them."""
        ...

    def lend(self, weights: Mapping[str, Tensor]) -> None:
        """Exchange the parameters' values with those given, until the next exchange."""
        ...

    def whole(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        """Put together what the workers keep of each parameter, one after the other."""
        ...

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """Cut from a whole parameter what this worker keeps of it."""
        ...

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Whole states of the optimizers, as `name/key`."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `optimizer_state`."""
        ...


def build_engine(
    module: nn.Module,
    options: OptimizerOptions,
    sharding: Sharding = WHOLE,
    worker: Worker = ALONE,
    num_parts: int = 1,
) -> Engine:
    """Make the engine that fits.

    Args:
        module: What is trained, in place.
        options: How its parameters move.
        sharding: What the workers share out.
        worker: Place in the group.
        num_parts: Parts of each step's loss in this worker, as in every other.

    Raises:
        ConfigError: the optimizer cannot be shared out, or DeepSpeed is not installed.
    """
    if sharding.zero_stage == 0:
        return TorchEngine(module, options, worker)
    if options.matrices:
        raise ConfigError(
            f"runtime.zero_stage = {sharding.zero_stage} with vae.optimizer = 'muon': Muon needs "
            "whole matrices, which ZeRO cuts. Set vae.optimizer=adamw, or runtime.zero_stage=0."
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"runtime.zero_stage = {sharding.zero_stage}: DeepSpeed is not installed here. "
            "Install it: pip install 'difflm-on-ray[train]'; or set runtime.zero_stage=0."
        )
    from difflm_core.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, options, sharding, worker, num_parts)


class TorchEngine(Engine):
    """Keeps everything in every worker; gradients are summed over the group.

    The weights of the workers stay equal, since equal numbers enter equal arithmetic.
    """

    def __init__(
        self, module: nn.Module, options: OptimizerOptions, worker: Worker = ALONE
    ) -> None:
        self._module = module
        self._worker = worker
        self._clip_norm = options.clip_norm
        self._parameters = trained_parameters(module)
        self._optimizers = build_optimizers(self._parameters, options)
        self._lrs = [[g["lr"] for g in o.param_groups] for o in self._optimizers]

    @override
    def __call__(self, *inputs: Any) -> Any:
        return self._module(*inputs)

    @property
    @override
    def module(self) -> nn.Module:
        return self._module

    @override
    def begin_phase(self, trained: Callable[[str], bool]) -> None:
        """Nothing to do: parameters without a gradient stay as they are."""

    @override
    def backward(self, part: Tensor) -> None:
        part.backward()

    @override
    def step(self, rate: float) -> float:
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        collective.sum_in_place(gradients, self._worker)
        norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm))
        for optimizer, lrs in zip(self._optimizers, self._lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * rate
            if norm < float("inf"):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    @override
    def weights(self) -> Weights:
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    @override
    def overwrite(self, weights: Weights) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    @torch.no_grad()
    @override
    def lend(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.clone()
            parameter.copy_(weights[name])
            weights[name].copy_(kept)

    @override
    def whole(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        yield from weights.items()

    @override
    def part_of(self, name: str, whole: Tensor) -> Tensor:
        return whole.to(self._parameters[name].device)

    @override
    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            for optimizer in self._optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    yield f"{name}/{key}", value

    @override
    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        owners = {
            parameter: optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for path, value in state.items():
            name, _, key = path.rpartition("/")
            parameter = self._parameters[name]
            # Counters of steps stay on the host, as the optimizer makes them.
            device = "cpu" if value.ndim == 0 else parameter.device
            owners[parameter].state[parameter][key] = value.to(device)


def build_optimizers(
    parameters: Mapping[str, nn.Parameter], options: OptimizerOptions
) -> Sequence[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for everything else.

    Muon orthogonalises the momentum of a matrix (Jordan et al. 2024); these small transformers
    reach a given likelihood in fewer steps with it (benchmarks/optimizer.py, docs/adr/0005).
    """
    matrices = [p for name, p in parameters.items() if name in options.matrices]
    decay = options.weight_decay
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if name not in options.matrices:
            rates.setdefault(options.lr_of(name), []).append(parameter)
    groups = [{"params": members, "lr": lr} for lr, members in rates.items()]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=options.lr, betas=ADAM_BETAS, weight_decay=decay)
    ]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=options.matrix_lr, weight_decay=decay))
    return optimizers


def export(engine: Engine, worker: Worker) -> dict[str, Tensor]:
    """Whole weights on the host, in the first worker; every worker takes part."""
    found: dict[str, Tensor] = {}
    for name, whole in engine.whole(engine.weights()):
        if worker.rank == 0:
            found[name] = whole.detach().cpu().clone()
    return found
