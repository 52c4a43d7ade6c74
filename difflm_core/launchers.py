"""Launchers by name: this machine, and what installed packages bring.

A package brings one through the entry-point group `difflm.launchers`: a function of an address (or
None) and the `RuntimeConfig`, which gives a context manager around a `Launcher`. So the library
runs on Ray without knowing it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from typing import cast

from difflm_core.config import RuntimeConfig
from difflm_core.errors import ConfigError
from difflm_core.parallel import Launcher, LocalLauncher

GROUP = "difflm.launchers"
LOCAL = "local"
OpenLauncher = Callable[[str | None, RuntimeConfig], contextlib.AbstractContextManager[Launcher]]


def open_launcher(
    name: str, address: str | None, runtime: RuntimeConfig
) -> contextlib.AbstractContextManager[Launcher]:
    """Make a launcher; leave its context to stop what it started.

    Args:
        name: `local`, or what an installed package brings, such as `ray`.
        address: of the cluster, where there is one.
        runtime: workers, threads, device.

    Raises:
        ConfigError: there is no such launcher, or what it needs is not installed.
    """
    if name == LOCAL:
        if address:
            raise ConfigError(
                f"--address {address}: there is nothing to connect to on {LOCAL}. Add --on ray."
            )
        return contextlib.nullcontext(LocalLauncher())
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join([LOCAL, *found])
        raise ConfigError(f"--on {name}: there is no such launcher. Expected one of: {known}.")
    try:
        factory = found[name].load()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--on {name}: the module {error.name} is not installed here. Install what {name} "
            f"needs: pip install 'difflm-on-ray[{name}]'"
        ) from None
    return cast("OpenLauncher", factory)(address, runtime)
