"""Where tensors live, and in which precision matrices are multiplied."""

from __future__ import annotations

import functools
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from difflm_core.errors import ConfigError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Less is no reason to round more, and might be chance.
WORTHWHILE_SPEEDUP = 1.25
SPEED_ROUNDS = 7


@dataclass(frozen=True)
class Compute:
    """Where tensors live, and the type in which the text-VAE multiplies matrices."""

    device: torch.device
    precision: torch.dtype = torch.float32


def choose_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """What `runtime.device` and `runtime.precision` mean on this machine.

    Raises:
        ConfigError: this machine has no such device, or there is no such precision.
    """
    chosen = choose_device(device)
    return Compute(chosen, choose_precision(precision, chosen))


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: this machine, or this build of torch, has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    usable = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": _num_mps()}
    if (device.index or 0) >= usable.get(device.type, 0):
        found = ", ".join(kind for kind, count in usable.items() if count)
        raise ConfigError(
            f"runtime.device = {name!r}: torch {torch.__version__} finds no such device on this "
            f"machine. Expected auto, or one of: {found}."
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type called `name`; `auto` takes bfloat16 where matrices are multiplied faster in it.

    Raises:
        ConfigError: there is no such precision.
    """
    if name == "auto":
        return torch.bfloat16 if _is_bfloat16_faster(device) else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r}: expected auto, {' or '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Multiply matrices in `precision` inside this context; sums and norms stay in float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def _is_bfloat16_faster(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.cpu.get_capabilities().get("avx512_bf16", False):
        return False  # emulated, and several times slower
    return _bfloat16_speedup() > WORTHWHILE_SPEEDUP


@functools.cache
def _bfloat16_speedup() -> float:
    """How many times faster a product of the size of small models is in bfloat16, in 20 ms.

    Measured, because that a processor has the instructions does not say so: they are four times as
    fast as float32 on some and half as fast on others (docs/adr/0015).
    """
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    with torch.inference_mode():
        for _ in range(SPEED_ROUNDS):
            for dtype, best in seconds.items():
                rows, weights = (
                    torch.ones(256, 256, dtype=dtype),
                    torch.ones(1024, 256, dtype=dtype),
                )
                begun = time.perf_counter()
                torch.nn.functional.linear(rows, weights)
                seconds[dtype] = min(best, time.perf_counter() - begun)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _num_mps() -> int:
    return int(torch.backends.mps.is_available())
