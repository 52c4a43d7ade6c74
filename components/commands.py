"""The commands `difflm serve` and `difflm key`; Ray is imported when one runs."""

from __future__ import annotations

import importlib.util
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difflm_core.cli.console import SETTINGS, start_output
from difflm_core.cli.groups import add_command
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    from components.serve import AppArgs

PORT = 8000
_PANEL = "Serving"


def add_commands(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(
        app,
        serve,
        "difflm serve runs/adult",
        "difflm serve model/ census=other/model/ --port 9000 --replicas 2",
        "difflm serve runs/ --watch --keys keys.yaml --host 0.0.0.0",
        panel=_PANEL,
    )
    add_command(
        app,
        key,
        "difflm key analytics --file keys.yaml --rows-per-day 1000000",
        panel=_PANEL,
    )


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="A model, a run, or a folder of such; NAME=MODEL names it."
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Interface; 0.0.0.0 for all, which takes --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port.")] = PORT,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that make rows.")] = 1,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="FILE", help="API keys; see `difflm key`.")
    ] = None,
    results: Annotated[
        str | None,
        typer.Option("--results", metavar="URI", help="Folder of the files of jobs."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="MODEL are folders whose models come and go.")
    ] = False,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="A Ray cluster's head.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Let everybody who reaches --host call.")
    ] = False,
) -> None:
    """Serve models over HTTP, with a page at /.

    A bundle that is replaced is served within seconds, without a lost request. Stop with Ctrl-C.
    """
    _require_libraries("ray", "fastapi", "httpx", "prometheus_client")
    from components.serve_here import (
        LOOPBACK_NAMES,
        is_loopback,
        require_port,
        serving,
        split_processors,
    )
    from components.serving.keys import read_keys
    from components.serving.registry import find_models

    if watch:
        _require_folders(models)
    found = {} if watch else find_models(models)
    known = read_keys(keys)
    if not known and not is_loopback(host) and not anonymous:
        raise ConfigError(
            f"--host {host} lets other machines call, and there are no API keys. Make some "
            "(difflm key NAME --file keys.yaml) and pass --keys keys.yaml, or say --anonymous."
        )
    require_port(host, port)
    start_output()
    folder = results or str(Path.cwd() / "serve-results")

    def make_args() -> AppArgs:
        from components.serve import AppArgs

        return AppArgs(
            models={name: _absolute(uri) for name, uri in found.items()},
            folders=[_absolute(uri) for uri in models] if watch else [],
            num_replicas=replicas,
            cpus_per_replica=split_processors(replicas),
            keys_file=_absolute(keys) if keys else None,
            results=_absolute(folder),
            allowed_hosts=LOOPBACK_NAMES if is_loopback(host) else None,
        )

    split_processors(replicas)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with serving(make_args, host, port, address) as url:
        _announce(url, sorted(found), folder, bool(known))
        try:
            stopped.wait()
        except KeyboardInterrupt:
            pass
        typer.echo("Stopping: what is under way may end.", err=True)


def _announce(url: str, names: list[str], results: str, keyed: bool) -> None:
    first = names[0] if names else "MODEL"
    lines = [
        f"Serving {', '.join(names) or 'what appears'} at {url}",
        "",
        f"  page     {url}/",
        f"  rows     curl {url}/v1/models/{first}/generate --json '{{\"count\": 5}}'"
        + (' -H "Authorization: Bearer $KEY"' if keyed else ""),
        f"  API      {url}/openapi.json   {url}/metrics",
        f"  jobs     {results}",
        "",
        "Ctrl-C stops it.",
    ]
    typer.echo("\n".join(lines), err=True)


def _require_libraries(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{SETTINGS.program} serve needs {', '.join(missing)}. Install it: "
            "pip install 'difflm-on-ray[ray,serve]'"
        )


def _require_folders(places: list[str]) -> None:
    from difflm_core import storage

    for place in places:
        if not storage.is_dir(place):
            raise ConfigError(f"--watch {place}: there is no such folder; expected one of models.")


def _absolute(uri: str) -> str:
    from difflm_core import storage

    return str(Path(uri).resolve()) if storage.is_local(uri) else uri


def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Add it to this file of keys.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="Only this model; may be repeated.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most requests a minute.")
    ] = None,
    rows_per_day: Annotated[int | None, typer.Option(min=1, help="Most rows a day.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Last day it is good for.")
    ] = None,
) -> None:
    """Make an API key for `difflm serve`.

    The key is printed once; the file holds its hash.
    """
    _require_libraries("fastapi")
    from components.serving.keys import add_key, make_entry, new_key

    secret = new_key()
    entry = make_entry(
        name,
        secret,
        models=models or None,
        requests_per_minute=requests_per_minute,
        rows_per_day=rows_per_day,
        expires=expires,
    )
    if file is None:
        import yaml

        typer.echo(yaml.safe_dump({"keys": [entry]}, sort_keys=False), err=True)
    else:
        add_key(file, entry)
        typer.echo(f"Added {name} to {file}. The key, shown this once:", err=True)
    typer.echo(secret)
