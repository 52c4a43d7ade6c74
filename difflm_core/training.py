"""The training loop that the text-VAE and the diffusion share.

A step is a pure function of the weights and of the step's number: data order, noise and dropout
are drawn from generators keyed on (seed, step). A run that continues from a checkpoint therefore
repeats the undisturbed one bit for bit, and no generator state has to be stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one learning-rate factor and one score.

    The factor is constant, or falls linearly to zero: "warm-up, stable, decay" reaches the quality
    of a cosine schedule without fixing the length of the run (Hägele et al. 2024,
    arXiv 2405.18392). A constant phase can end when validation stops improving, and the next one
    starts from its best weights; a decaying one runs to its end and leaves its last weights, since
    those before are noisier whatever they score.

    Attributes:
        name: Name of the phase, in reports.
        max_steps: Longest duration; None: `share` of the steps before it.
        share: Duration relative to the steps before it, when `max_steps` is None.
        decays: Whether the learning rate falls to zero.
    """

    name: str
    max_steps: int | None = None
    share: float = 0.0
    decays: bool = False


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

    Muon orthogonalises the momentum of a matrix (Jordan et al. 2024); these small transformers
    reach a given likelihood in fewer steps with it (benchmarks/optimizer.py, docs/adr/0005).
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
        warmup_steps: Steps over which the learning rate rises at the start of a phase.
        clip_norm: Largest norm of the gradient.
        ema_decay: Decay of the weights' moving average.
        evaluate_every_steps: Steps between evaluations of the averaged weights.
        patience: Evaluations without improvement that end a phase; 0: none does.
        checkpoint_every_steps: Steps between checkpoints.
    """

    warmup_steps: int = 50
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    evaluate_every_steps: int = 100
    patience: int = 0
    checkpoint_every_steps: int = 200


@dataclass
class LoopState:
    """Where a run stands.

    Attributes:
        step: Steps done.
        phase: Index of the phase.
        phase_start: Step at which it began.
        best_score: Lowest score so far; None before the first.
        waited: Evaluations since that one.
        history: Every evaluation: its step and metrics.
    """

    step: int = 0
    phase: int = 0
    phase_start: int = 0
    best_score: float | None = None
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


# Loss and metrics to show of a step, given its number and the phase's name.
LossOfStep = Callable[[int, str], tuple[Tensor, Mapping[str, Tensor]]]
# Score (lower is better; None: nothing to validate on) and metrics of the module as it is.
Evaluate = Callable[[str], tuple[float | None, Mapping[str, float]]]


class TrainingLoop:
    """Trains a module phase by phase, keeps its best averaged weights, continues if stopped."""

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        phases: Sequence[Phase],
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
            phases: What is done, in order.
            options: Clipping, averaging, evaluation, checkpoints.
            seed: Seed of the run.
            checkpoint: File to continue from and to write; None: no checkpoints.
            progress: Where the run is reported.
        """
        self.module = module
        self.optimizers = list(optimizers)
        self.phases = list(phases)
        self.options = options
        self.seed = seed
        self.checkpoint = checkpoint
        self.progress = progress
        self.ema = Ema(module, options.ema_decay)
        self.state = LoopState()
        self.best = [average.clone() for average in self.ema.average]
        self._base_lrs = [[g["lr"] for g in o.param_groups] for o in self.optimizers]

    @property
    def longest(self) -> int:
        """Steps left in the longest case, plus those done."""
        total = self.state.phase_start
        for phase in self.phases[self.state.phase :]:
            total += _length(phase, total)
        return total

    def run(
        self,
        loss_of_step: LossOfStep,
        evaluate: Evaluate,
        *,
        description: str,
        stop_after: int | None = None,
    ) -> LoopState:
        """Train through all phases, then leave the module with its best weights.

        Args:
            loss_of_step: See `LossOfStep`.
            evaluate: See `Evaluate`.
            description: Title of the progress bar.
            stop_after: Stop after this many steps in all, as an interruption would.

        Raises:
            StageError: the loss stopped being a number.
        """
        self._restore()
        state, options = self.state, self.options
        track = self.progress.track(
            description, total=self.longest, unit="steps", initial=state.step
        )
        with track as bar:
            while state.phase < len(self.phases):
                phase = self.phases[state.phase]
                end = state.phase_start + _length(phase, state.phase_start)
                exhausted = options.patience and state.waited >= options.patience
                if state.step >= end or (exhausted and not phase.decays):
                    self._next_phase()
                    bar.report.total = self.longest
                    continue
                loss, metrics = self._train_step(loss_of_step, phase, end)
                shown: dict[str, Any] = {"loss": loss, **metrics}
                if state.step % options.evaluate_every_steps == 0 or state.step == end:
                    shown |= self._evaluate(evaluate, phase)
                if self.checkpoint and state.step % options.checkpoint_every_steps == 0:
                    self._save(self.checkpoint)
                bar.advance(1, **shown)
                if state.step == stop_after:
                    return state
        self.module.eval()
        return state

    def _next_phase(self) -> None:
        """Go on from the best weights of a constant phase, from the last ones of a decaying one.

        Both are averages over the last steps.
        """
        state = self.state
        chosen = state.best_score is not None and not self.phases[state.phase].decays
        best = self.best if chosen else self.ema.average
        with torch.no_grad():
            for parameter, average, value in zip(
                self.ema.parameters, self.ema.average, best, strict=True
            ):
                parameter.copy_(value)
                average.copy_(value)
        state.phase, state.phase_start = state.phase + 1, state.step
        state.waited = 0
        if state.phase < len(self.phases):
            state.best_score = None

    def _train_step(
        self, loss_of_step: LossOfStep, phase: Phase, end: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        state = self.state
        torch.manual_seed(seed_of(self.seed, "dropout", state.step))
        if phase.decays:
            factor = (end - state.step) / (end - state.phase_start)
        else:
            factor = min(
                1.0, (state.step - state.phase_start + 1) / max(1, self.options.warmup_steps)
            )
        for optimizer, lrs in zip(self.optimizers, self._base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        self.module.train()
        loss, metrics = loss_of_step(state.step, phase.name)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip_norm)
        if not bool(torch.isfinite(norm)):
            value = float(loss.detach())
            raise StageError(
                f"The gradient of step {state.step} is not finite (the loss is {value:.4g}). "
                "Lower the learning rate, or look for extreme values in the data."
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(state.step)
        state.step += 1
        return loss.detach(), {name: value.detach() for name, value in metrics.items()}

    def _evaluate(self, evaluate: Evaluate, phase: Phase) -> dict[str, float]:
        state = self.state
        self.ema.swap()
        self.module.eval()
        with torch.inference_mode():
            score, metrics = evaluate(phase.name)
        self.ema.swap()
        state.history.append({"step": state.step, **metrics})
        self.progress.event("evaluation", phase=phase.name, step=state.step, **metrics)
        if score is not None:
            state.waited += 1
            # A score that is not a number never counts as the best.
            if math.isfinite(score) and (state.best_score is None or score < state.best_score):
                state.best_score, state.waited = score, 0
                self.best = [average.clone() for average in self.ema.average]
        return dict(metrics)

    def _save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for group, values in self._weights().items():
            for index, value in enumerate(values):
                tensors[f"{group}.{index}"] = value.detach().contiguous()
        for number, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    tensors[f"optimizer.{number}.{index}.{name}"] = torch.as_tensor(value)
        with storage.atomic_output(str(path)) as temporary:
            save_file(tensors, temporary, metadata={"state": json.dumps(asdict(self.state))})

    @torch.no_grad()
    def _restore(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata()
        for group, values in self._weights().items():
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
        self.state = LoopState(**json.loads(metadata["state"]))

    def _weights(self) -> dict[str, Sequence[Tensor]]:
        return {"weight": self.ema.parameters, "ema": self.ema.average, "best": self.best}


def _length(phase: Phase, start: int) -> int:
    """Longest duration of a phase that begins at step `start`."""
    return max(1, round(phase.share * start)) if phase.max_steps is None else phase.max_steps
