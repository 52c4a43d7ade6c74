"""The training loop that the text-VAE and the diffusion share.

A step is a pure function of the weights and of the step's number: data order, noise and dropout
are drawn from generators keyed on (seed, step). A run that continues from a checkpoint therefore
repeats the undisturbed one bit for bit, and no generator state has to be stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from difflm_core import storage
from difflm_core.errors import StageError
from difflm_core.progress import SILENT, Progress
from difflm_core.seeds import seed_of

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor over a run: linear warm-up, constant, then linear decay to zero.

    The constant stretch with a late decay ("warm-up, stable, decay") reaches the quality of a
    cosine schedule (Hägele et al. 2024, arXiv 2405.18392).

    Attributes:
        num_steps: Length of the run.
        warmup_steps: Steps of the warm-up.
        decay_fraction: Share of the run that decays.
    """

    num_steps: int
    warmup_steps: int = 50
    decay_fraction: float = 0.5

    def factor(self, step: int) -> float:
        """Factor of `step`, counted from 0."""
        decay_steps = max(1, round(self.num_steps * self.decay_fraction))
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return min(warmup, (self.num_steps - step) / decay_steps, 1.0)


class Ema:
    """Exponential moving average of a module's parameters.

    The decay ramps up as (1 + step) / (10 + step), so that early steps do not linger.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start the average at the current weights of `module`."""
        self.decay = decay
        self.parameters = list(module.parameters())
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the current weights after `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights of the module and the average; twice is a no-op."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)


def build_optimizers(
    module: nn.Module,
    matrices: Sequence[nn.Parameter],
    *,
    matrix_lr: float,
    lr: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Muon for the hidden `matrices`, AdamW for everything else.

    Muon orthogonalises the momentum of a matrix (Jordan et al. 2024); on these small transformers
    it reaches a given likelihood in about a third of AdamW's steps (benchmarks/optimizer.md).
    """
    chosen = {id(p) for p in matrices}
    rest = [p for p in module.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    ]
    if matrices:
        optimizers.append(torch.optim.Muon(list(matrices), lr=matrix_lr, weight_decay=weight_decay))
    return optimizers


@dataclass(frozen=True)
class LoopOptions:
    """How a run is clipped, averaged, watched and saved.

    Attributes:
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the weights' moving average.
        evaluate_every_steps: Steps between evaluations of the averaged weights.
        patience: Evaluations without improvement after which training stops; 0: never stops.
        checkpoint_every_steps: Steps between checkpoints.
    """

    clip_norm: float = 1.0
    ema_decay: float = 0.995
    evaluate_every_steps: int = 250
    patience: int = 0
    checkpoint_every_steps: int = 250


@dataclass
class LoopState:
    """Where a run stands.

    Attributes:
        step: Steps done.
        best_score: Lowest score of an evaluation so far.
        best_step: Step of that evaluation.
        history: Every evaluation: its step and metrics.
    """

    step: int = 0
    best_score: float = math.inf
    best_step: int = 0
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


class TrainingLoop:
    """Trains a module, keeps its best averaged weights, and continues where it stopped."""

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedule: Schedule,
        options: LoopOptions,
        *,
        seed: int,
        checkpoint: Path | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Prepare a run.

        Args:
            module: What is trained, in place.
            optimizers: Together they hold every parameter that learns.
            schedule: Learning-rate factor.
            options: Clipping, averaging, evaluation, checkpoints.
            seed: Seed of the run.
            checkpoint: File to continue from and to write; None: no checkpoints.
            progress: Where the run is reported.
        """
        self.module = module
        self.optimizers = list(optimizers)
        self.schedule = schedule
        self.options = options
        self.seed = seed
        self.checkpoint = checkpoint
        self.progress = progress
        self.ema = Ema(module, options.ema_decay)
        self.state = LoopState()
        self.best = [average.clone() for average in self.ema.average]
        self._base_lrs = [[g["lr"] for g in o.param_groups] for o in self.optimizers]

    def run(
        self,
        loss_of_step: Callable[[int], tuple[Tensor, Mapping[str, Tensor]]],
        evaluate: Callable[[], tuple[float | None, Metrics]],
        *,
        description: str,
        num_steps: int | None = None,
    ) -> LoopState:
        """Train to the end of the schedule (or to `num_steps`), then load the best weights.

        Args:
            loss_of_step: Loss of a step, and metrics to show.
            evaluate: Score (lower is better; None: not a candidate to keep) and metrics of the
                module as it is.
            description: Title of the progress bar.
            num_steps: Stop after this many steps in all.

        Raises:
            StageError: the loss stopped being a number.
        """
        total = self.schedule.num_steps if num_steps is None else num_steps
        self._restore()
        state, options = self.state, self.options
        with self.progress.track(description, total=total, unit="steps", initial=state.step) as bar:
            while state.step < total and not self._is_exhausted():
                loss, metrics = self._train_step(loss_of_step)
                shown: dict[str, Any] = {"loss": loss, **metrics}
                if state.step % options.evaluate_every_steps == 0 or state.step == total:
                    shown |= self._evaluate(evaluate)
                if self.checkpoint and state.step % options.checkpoint_every_steps == 0:
                    self._save(self.checkpoint)
                bar.advance(1, **shown)
        self._load_best()
        return state

    def _train_step(
        self, loss_of_step: Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        state = self.state
        torch.manual_seed(seed_of(self.seed, "dropout", state.step))
        factor = self.schedule.factor(state.step)
        for optimizer, lrs in zip(self.optimizers, self._base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        self.module.train()
        loss, metrics = loss_of_step(state.step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise StageError(
                f"The gradient of step {state.step} is not finite (loss {float(loss):.4g}). Lower "
                "the learning rate, or look for extreme values in the data."
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(state.step)
        state.step += 1
        return loss.detach(), {name: value.detach() for name, value in metrics.items()}

    def _evaluate(self, evaluate: Callable[[], tuple[float | None, Metrics]]) -> dict[str, float]:
        state = self.state
        self.ema.swap()
        self.module.eval()
        with torch.inference_mode():
            score, metrics = evaluate()
        self.ema.swap()
        state.history.append({"step": state.step, **metrics})
        self.progress.event("evaluation", step=state.step, **metrics)
        if score is not None and score < state.best_score:
            state.best_score, state.best_step = score, state.step
            self.best = [average.clone() for average in self.ema.average]
        return dict(metrics)

    def _is_exhausted(self) -> bool:
        patience = self.options.patience
        if not patience:
            return False
        waited = self.state.step - self.state.best_step
        return self.state.best_step > 0 and waited >= patience * self.options.evaluate_every_steps

    @torch.no_grad()
    def _load_best(self) -> None:
        weights = self.best if self.state.best_step else self.ema.average
        for parameter, best in zip(self.module.parameters(), weights, strict=True):
            parameter.copy_(best)
        self.module.eval()

    def _save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        groups = {"weight": self.ema.parameters, "ema": self.ema.average, "best": self.best}
        for group, parameters in groups.items():
            for index, value in enumerate(parameters):
                tensors[f"{group}.{index}"] = value.detach().contiguous()
        for number, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    tensors[f"optimizer.{number}.{index}.{name}"] = torch.as_tensor(value)
        state = self.state
        tensors["state"] = torch.tensor(
            [state.step, state.best_score, state.best_step], dtype=torch.float64
        )
        metadata = {"history": json.dumps(state.history)}
        with storage.atomic_output(str(path)) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @torch.no_grad()
    def _restore(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
        for group, values in (
            ("weight", self.ema.parameters),
            ("ema", self.ema.average),
            ("best", self.best),
        ):
            for index, value in enumerate(values):
                value.copy_(tensors[f"{group}.{index}"])
        for number, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            saved["state"] = {}
            for key, value in tensors.items():
                kind, _, rest = key.partition(".")
                if kind == "optimizer" and rest.startswith(f"{number}."):
                    _, index, name = rest.split(".", 2)
                    saved["state"].setdefault(int(index), {})[name] = value
            optimizer.load_state_dict(saved)
        step, score, best_step = tensors["state"].tolist()
        history = json.loads(metadata["history"])
        self.state = LoopState(int(step), score, int(best_step), history)
