"""An engine on DeepSpeed ZeRO: workers share out optimizer states, gradients and weights.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models". The arithmetic is that of `TorchEngine` with AdamW, so the same losses come out, up to
the order of sums. DeepSpeed keeps everything in float32; where `runtime.precision` is bfloat16,
the module multiplies matrices in it by itself, as without DeepSpeed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from difflm_core.engines import (
    ADAM_BETAS,
    Engine,
    OptimizerOptions,
    Sharding,
    Weights,
    trained_parameters,
)
from difflm_core.parallel import Worker

STATES = ("exp_avg", "exp_avg_sq")


class DeepSpeedEngine(Engine):
    """Trains with AdamW."""

    def __init__(
        self,
        module: nn.Module,
        options: OptimizerOptions,
        sharding: Sharding,
        worker: Worker,
        num_parts: int,
    ) -> None:
        self._module = module
        self._worker = worker
        self._num_parts = num_parts
        self._shards_weights = sharding.zero_stage == 3
        self._parameters = trained_parameters(module)
        # Parameters that join later have an optimizer of their own: its steps begin then.
        groups: dict[tuple[bool, float], list[str]] = {}
        for name in self._parameters:
            key = (name.startswith(options.late), options.lr_of(name))
            groups.setdefault(key, []).append(name)
        self._groups = [groups[key] for key in sorted(groups, key=lambda key: key[0])]
        self._lrs = [options.lr_of(names[0]) for names in self._groups]
        self._trained = [False] * len(self._groups)
        self._rates = [0.0] * len(self._groups)
        self._engine = self._initialize(options, sharding)
        self._make_states()

    def _initialize(self, options: OptimizerOptions, sharding: Sharding) -> Any:
        device = next(self._module.parameters()).device
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # DeepSpeed asks for it even where the group stands already.
        os.environ.setdefault("LOCAL_RANK", "0")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        import deepspeed

        # Faster messages on one machine, but compiled at first use: a container has no compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if not dist.is_initialized():
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        deepspeed.init_distributed(
            dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False
        )
        optimizer = torch.optim.AdamW(
            [{"params": [self._parameters[name] for name in names]} for names in self._groups],
            lr=0.0,
            betas=ADAM_BETAS,
            weight_decay=options.weight_decay,
        )
        engine, *_ = deepspeed.initialize(
            model=self._module,
            optimizer=optimizer,
            config=_settings(options, sharding, self._num_parts),
            dist_init_required=False,
        )
        return engine

    def _make_states(self) -> None:
        """Start the optimizer's states now, at zero, so that a checkpoint can fill them."""
        for masters in self._masters():
            for master in masters:
                state = {key: torch.zeros_like(master) for key in STATES}
                self._zero.optimizer.state[master] = {"step": torch.tensor(0.0), **state}
        if not self._shards_weights:
            self._zero._lazy_init_hp_params_optimizer_state()

    @property
    def _zero(self) -> Any:
        return self._engine.optimizer

    def _masters(self) -> list[list[Tensor]]:
        """The flat parameters that this worker's optimizer moves, by group."""
        if not self._shards_weights:
            return [[master] for master in self._zero.single_partition_of_fp32_groups]
        masters: list[list[Tensor]] = [[] for _ in self._groups]
        for index, master in enumerate(self._zero.fp32_partitioned_groups_flat):
            masters[self._zero.sub_group_to_group_id[index]].append(master)
        return masters

    @override
    def __call__(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    @property
    @override
    def module(self) -> nn.Module:
        return self._module

    @override
    def begin_phase(self, trained: Callable[[str], bool]) -> None:
        for index, names in enumerate(self._groups):
            trains = any(trained(name) for name in names)
            if trains and not self._trained[index]:
                self._trained[index] = True
                self._set_steps(index, 0.0)
            self._rates[index] = float(trains)

    def _set_steps(self, group: int, steps: float) -> None:
        for master in self._masters()[group]:
            self._zero.optimizer.state[master]["step"].fill_(steps)

    @override
    def backward(self, part: Tensor) -> None:
        # DeepSpeed takes the mean over workers and parts, where the sum is wanted.
        self._engine.backward(part * (self._worker.world_size * self._num_parts))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    @override
    def step(self, rate: float) -> float:
        for group, lr, factor in zip(self._zero.param_groups, self._lrs, self._rates, strict=True):
            group["lr"] = lr * rate * factor
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    @override
    def weights(self) -> Weights:
        return {name: self._kept(p).detach() for name, p in self._parameters.items()}

    def _kept(self, parameter: Any) -> Tensor:
        return parameter.ds_tensor if self._shards_weights else parameter

    @torch.no_grad()
    @override
    def overwrite(self, weights: Weights) -> None:
        self._forget_gathered()
        for name, kept in self.weights().items():
            kept.copy_(weights[name])
        self._zero.refresh_fp32_params()

    @torch.no_grad()
    @override
    def lend(self, weights: Mapping[str, Tensor]) -> None:
        self._forget_gathered()
        for name, kept in self.weights().items():
            before = kept.clone()
            kept.copy_(weights[name])
            weights[name].copy_(before)

    def _forget_gathered(self) -> None:
        if self._shards_weights:
            self._zero.empty_partition_cache()

    @override
    def whole(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        for name, kept in weights.items():
            if not self._shards_weights:
                yield name, kept
                continue
            parameter: Any = self._parameters[name]
            parts = [torch.empty_like(kept) for _ in range(self._worker.world_size)]
            dist.all_gather(parts, kept.contiguous())
            flat = torch.cat(parts)[: parameter.ds_numel]
            yield name, flat.view(parameter.ds_shape)

    @override
    def part_of(self, name: str, whole: Tensor) -> Tensor:
        parameter: Any = self._parameters[name]
        if not self._shards_weights:
            return whole.to(parameter.device)
        size = parameter.ds_tensor.numel()
        flat = whole.flatten()
        padding = size * self._worker.world_size - flat.numel()
        flat = torch.nn.functional.pad(flat, (0, padding))
        return flat.narrow(0, size * self._worker.rank, size).to(parameter.ds_tensor.device)

    @override
    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        for index, names in enumerate(self._groups):
            if not self._trained[index]:
                continue
            master = self._masters()[index][0]
            steps = self._zero.optimizer.state[master]["step"]
            for name in names:
                yield f"{name}/step", steps.clone()
                for key in STATES:
                    whole = safe_get_full_optimizer_state(self._parameters[name], key)
                    yield f"{name}/{key}", cast("Tensor", whole)

    @override
    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        for index, names in enumerate(self._groups):
            self._trained[index] = f"{names[0]}/step" in state
            if not self._trained[index]:
                continue
            self._set_steps(index, float(state[f"{names[0]}/step"]))
            for name in names:
                parameter = self._parameters[name]
                for key in STATES:
                    value = state[f"{name}/{key}"]
                    if self._shards_weights:
                        part = self.part_of(name, value)
                        safe_set_local_optimizer_state(parameter, part, key)
                    else:
                        safe_set_full_optimizer_state(parameter, value, key)


def _settings(options: OptimizerOptions, sharding: Sharding, num_parts: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": sharding.zero_stage}
    if sharding.zero_stage == 3:
        # No weight stays whole between steps: an average that is lent takes its place at once.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    if sharding.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if sharding.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        # Batches are cut by the loop; only their number matters to DeepSpeed.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": num_parts,
        "gradient_clipping": options.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own optimizer for the host is compiled at the first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
