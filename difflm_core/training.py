"""The training loop that the text-VAE and the diffusion share.

A step is a pure function of the weights and of the step's number: data order, noise and dropout
are drawn from generators keyed on (seed, step). A run that continues from a checkpoint therefore
repeats the undisturbed one bit for bit, and no generator state has to be stored.

A group of workers trains one model: every worker runs this loop, each on its share of the same
batches, and takes the same decisions. A checkpoint holds whole tensors by name, so a run may
continue with another number of workers, and another way of sharing weights out among them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from difflm_core import collective, storage
from difflm_core.engines import Engine, Weights
from difflm_core.errors import StageError
from difflm_core.parallel import ALONE, Worker
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
        untrained: Parameters whose names begin so have no gradient yet.
    """

    name: str
    max_steps: int | None = None
    share: float = 0.0
    decays: bool = False
    untrained: tuple[str, ...] = ()

    def trains(self, name: str) -> bool:
        """Tell whether this phase trains the parameter of that name."""
        return not name.startswith(self.untrained)


class Ema:
    """Exponential moving average of weights.

    The decay ramps up as (1 + step) / (10 + step), so that early steps do not linger.
    """

    def __init__(self, weights: Weights, decay: float) -> None:
        """Start the average at `weights`."""
        self.decay = decay
        self.average = copy_of(weights)

    @torch.no_grad()
    def update(self, weights: Weights, step: int) -> None:
        """Move the average towards the weights after `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.average.items():
            average.lerp_(weights[name], 1 - decay)


def copy_of(weights: Weights) -> dict[str, Tensor]:
    """Weights of their own, which training does not change."""
    return {name: weight.detach().clone() for name, weight in weights.items()}


@dataclass(frozen=True)
class LoopOptions:
    """How a run is warmed up, averaged, watched and saved.

    Attributes:
        warmup_steps: Steps over which the learning rate rises at the start of a phase.
        ema_decay: Decay of the weights' moving average.
        evaluate_every_steps: Steps between evaluations of the averaged weights.
        patience: Evaluations without improvement that end a phase; 0: none does.
        checkpoint_every_steps: Steps between checkpoints.
    """

    warmup_steps: int = 50
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


# A worker's share of a step's loss, in parts that are backpropagated one after the other, each
# with its part of the metrics to show; given the step's number and the phase's name. All parts of
# all workers sum to the loss and to the metrics.
LossOfStep = Callable[[int, str], Iterable[tuple[Tensor, Mapping[str, Tensor]]]]
# Score (lower is better; None: nothing to validate on) and metrics of the module as it is.
Evaluate = Callable[[str], tuple[float | None, Mapping[str, float]]]


class TrainingLoop:
    """Trains a module phase by phase, keeps its best averaged weights, continues if stopped."""

    def __init__(
        self,
        engine: Engine,
        phases: Sequence[Phase],
        options: LoopOptions,
        *,
        seed: int,
        checkpoint: str | None = None,
        worker: Worker = ALONE,
    ) -> None:
        """Prepare a run.

        Args:
            engine: Trains the module, in place.
            phases: What is done, in order.
            options: Warm-up, averaging, evaluation, checkpoints.
            seed: Seed of the run.
            checkpoint: File to continue from and to write, a path or URI that all workers reach;
                None: no checkpoints.
            worker: Place in the group, and where the run is reported.
        """
        self.engine = engine
        self.phases = list(phases)
        self.options = options
        self.seed = seed
        self.checkpoint = checkpoint
        self.worker = worker
        self.ema = Ema(engine.weights(), options.ema_decay)
        self.state = LoopState()
        self.best = copy_of(self.ema.average)

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
        contents: Mapping[str, float] | None = None,
        stop_after: int | None = None,
    ) -> LoopState:
        """Train through all phases, then leave the module with its best weights.

        Args:
            loss_of_step: See `LossOfStep`.
            evaluate: See `Evaluate`.
            description: Title of the progress bar.
            contents: What a step of the whole group reads, such as its tokens.
            stop_after: Stop after this many steps in all, as an interruption would.

        Raises:
            StageError: the loss stopped being a number.
        """
        self._restore()
        state, options = self.state, self.options
        track = self.worker.progress.track(
            description,
            total=self.longest,
            unit="steps",
            initial=state.step,
            contents=contents,
        )
        self._begin_phase()
        with track as bar:
            while state.phase < len(self.phases):
                phase = self.phases[state.phase]
                end = state.phase_start + _length(phase, state.phase_start)
                exhausted = options.patience and state.waited >= options.patience
                if state.step >= end or (exhausted and not phase.decays):
                    self._next_phase()
                    bar.report.total = self.longest
                    continue
                shown: dict[str, Any] = self._train_step(loss_of_step, phase, end)
                if state.step % options.evaluate_every_steps == 0 or state.step == end:
                    shown |= self._evaluate(evaluate, phase)
                if self.checkpoint and state.step % options.checkpoint_every_steps == 0:
                    self._save(self.checkpoint)
                bar.advance(1, **shown)
                if state.step == stop_after:
                    return state
        self.engine.module.eval()
        return state

    def _next_phase(self) -> None:
        """Go on from the best weights of a constant phase, from the last ones of a decaying one.

        Both are averages over the last steps.
        """
        state = self.state
        chosen = state.best_score is not None and not self.phases[state.phase].decays
        best = self.best if chosen else self.ema.average
        self.engine.overwrite(best)
        self.ema.average = copy_of(best)
        state.phase, state.phase_start = state.phase + 1, state.step
        state.waited = 0
        if state.phase < len(self.phases):
            state.best_score = None
        self._begin_phase()

    def _begin_phase(self) -> None:
        if self.state.phase < len(self.phases):
            self.engine.begin_phase(self.phases[self.state.phase].trains)

    def _train_step(self, loss_of_step: LossOfStep, phase: Phase, end: int) -> dict[str, Tensor]:
        state = self.state
        # Workers drop other units, as they see other rows; the first one those of one alone.
        place = [self.worker.rank] if self.worker.rank else []
        torch.manual_seed(seed_of(self.seed, "dropout", state.step, *place))
        if phase.decays:
            rate = (end - state.step) / (end - state.phase_start)
        else:
            rate = min(
                1.0, (state.step - state.phase_start + 1) / max(1, self.options.warmup_steps)
            )
        self.engine.module.train()
        sums: dict[str, Tensor] = {}
        for part, metrics in loss_of_step(state.step, phase.name):
            self.engine.backward(part)
            for name, value in {"loss": part, **metrics}.items():
                sums[name] = sums.get(name, 0) + value.detach()
        collective.sum_in_place(list(sums.values()), self.worker)
        norm = self.engine.step(rate)
        if not math.isfinite(norm):
            raise StageError(
                f"The gradient of step {state.step} is not finite (the loss is "
                f"{float(sums['loss']):.4g}). Lower the learning rate, or look for extreme values "
                "in the data."
            )
        self.ema.update(self.engine.weights(), state.step)
        state.step += 1
        return sums

    def _evaluate(self, evaluate: Evaluate, phase: Phase) -> dict[str, float]:
        state = self.state
        self.engine.lend(self.ema.average)
        self.engine.module.eval()
        with torch.no_grad():
            score, metrics = evaluate(phase.name)
        self.engine.lend(self.ema.average)
        state.history.append({"step": state.step, **metrics})
        self.worker.progress.event("evaluation", phase=phase.name, step=state.step, **metrics)
        if score is not None:
            state.waited += 1
            # A score that is not a number never counts as the best.
            if math.isfinite(score) and (state.best_score is None or score < state.best_score):
                state.best_score, state.waited = score, 0
                self.best = copy_of(self.ema.average)
        return dict(metrics)

    def _save(self, uri: str) -> None:
        """Write a checkpoint; every worker takes part, the first one writes."""
        tensors: dict[str, Tensor] = {}
        writes = self.worker.rank == 0
        for kind, weights in self._kinds().items():
            for name, whole in self.engine.whole(weights):
                if writes:
                    tensors[f"{kind}/{name}"] = whole.detach().cpu().contiguous()
        for path, whole in self.engine.optimizer_state():
            if writes:
                tensors[f"optimizer/{path}"] = torch.as_tensor(whole).cpu().contiguous()
        if writes:
            with storage.atomic_output(uri) as temporary:
                save_file(tensors, temporary, metadata={"state": json.dumps(asdict(self.state))})

    def _restore(self) -> None:
        if self.checkpoint is None or not storage.exists(self.checkpoint):
            return
        with storage.local_copy(self.checkpoint) as path, safe_open(path, "pt") as file:
            loaded = {
                kind: {
                    name: self.engine.part_of(name, file.get_tensor(f"{kind}/{name}")).clone()
                    for name in weights
                }
                for kind, weights in self._kinds().items()
            }
            prefix = "optimizer/"
            optimizer = {
                key.removeprefix(prefix): file.get_tensor(key)
                for key in file.keys()
                if key.startswith(prefix)
            }
            metadata = file.metadata()
        self.engine.overwrite(loaded["weight"])
        self.engine.load_optimizer_state(optimizer)
        self.ema.average, self.best = loaded["ema"], loaded["best"]
        self.state = LoopState(**json.loads(metadata["state"]))

    def _kinds(self) -> dict[str, Weights]:
        return {"weight": self.engine.weights(), "ema": self.ema.average, "best": self.best}


def _length(phase: Phase, start: int) -> int:
    """Longest duration of a phase that begins at step `start`."""
    return max(1, round(phase.share * start)) if phase.max_steps is None else phase.max_steps
