"""Where tensors live."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU if there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
