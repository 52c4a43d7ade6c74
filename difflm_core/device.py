"""Where tensors live."""

from __future__ import annotations

import torch

from difflm_core.errors import ConfigError


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


def _num_mps() -> int:
    return int(torch.backends.mps.is_available())
