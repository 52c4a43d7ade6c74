"""Speed and memory of the service: latency, one large stream, many small callers, a soak.

    python benchmarks/serving.py MODEL
    python benchmarks/serving.py MODEL --soak-minutes 10

Starts `difflm serve` on the loopback and measures it against the same rows made in a process of
its own, several times by turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import httpx
import psutil

MEBIBYTE = 2**20
STREAM_ROWS = 65_536
NUM_CALLERS, ROWS_PER_CALL = 32, 100
ROUNDS = 3
CALLS_EACH = 8
LATENCY_CALLS = 200


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a model or of a run")
    parser.add_argument("--soak-minutes", type=int, default=0, help="only watch the memory")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        in_process(options.model)
        return
    with Service(options.model) as service:
        if options.soak_minutes:
            report_soak(service, options.soak_minutes)
            return
        print(f"cold start: {service.cold_seconds:.1f} s to the first answer\n")
        report_latency(service)
        report_throughput(service, options.model)


class Service:
    """`difflm serve` in a process of its own."""

    def __init__(self, model: str) -> None:
        """Prepare to serve `model`."""
        self._model = model
        self.cold_seconds = 0.0

    def __enter__(self) -> Service:
        """Start it, and wait for its first row."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._folder = tempfile.TemporaryDirectory()
        program = str(Path(sys.executable).with_name("difflm"))
        command = [program, "-q", "serve", f"model={self._model}", "--port", str(port)]
        begun = time.perf_counter()
        self._process = subprocess.Popen(  # noqa: S603
            command, cwd=self._folder.name, stderr=subprocess.DEVNULL
        )
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if self.ask(httpx, 1).status_code == 200:
                    break
            time.sleep(0.1)
        self.cold_seconds = time.perf_counter() - begun
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(60)
        self._folder.cleanup()

    def ask(
        self, client: httpx.Client | type, count: int, format: str = "ndjson"
    ) -> httpx.Response:
        """Ask for rows."""
        url = f"{self.url}/v1/models/model/generate"
        return client.post(url, json={"count": count, "format": format}, timeout=600)

    def memory(self) -> dict[str, float]:
        """Resident MiB of the service's own processes by role; Ray's others as one."""
        found: dict[str, float] = {}
        process = psutil.Process(self._process.pid)
        for child in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                name = " ".join(child.cmdline())
                role = next((r for r in ("generator", "front", "Proxy") if r in name), "Ray")
                found[role] = found.get(role, 0) + child.memory_info().rss / MEBIBYTE
        return found


def report_latency(service: Service) -> None:
    """Latency of one caller."""
    print("| rows | p50 ms | p99 ms | calls |\n|-|-|-|-|")
    with httpx.Client() as client:
        for count in (1, 100):
            ask = partial(service.ask, client, count)
            ask()
            times = sorted(timed(ask) for _ in range(LATENCY_CALLS))
            p50, p99 = times[LATENCY_CALLS // 2], times[int(LATENCY_CALLS * 0.99)]
            print(
                f"| {count} | {1000 * p50:.0f} | {1000 * p99:.0f} | {LATENCY_CALLS} |", flush=True
            )
    print()


def report_throughput(service: Service, model: str) -> None:
    """Rows a second of the service and of a process without it, by turns."""
    names = ["in process", "one stream", f"{NUM_CALLERS} callers"]
    rates: dict[str, list[float]] = {name: [] for name in names}
    waits: list[float] = []
    for _ in range(ROUNDS):
        rates["in process"].append(rate_in_process(model))
        seconds = timed(lambda: read(service, STREAM_ROWS))
        rates["one stream"].append(STREAM_ROWS / seconds)
        seconds = timed(lambda: waits.extend(many_callers(service)))
        rates[names[2]].append(NUM_CALLERS * CALLS_EACH * ROWS_PER_CALL / seconds)
    base = statistics.mean(rates["in process"])
    print("| | rows/s | spread | of in process |\n|-|-|-|-|")
    for name, values in rates.items():
        mean = statistics.mean(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        print(f"| {name} | {mean:,.0f} | {spread} | {mean / base:.0%} |")
    waits.sort()
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    print(
        f"\n{NUM_CALLERS} callers of {ROWS_PER_CALL} rows at a time: p50 {p50:.2f} s, p99 "
        f"{p99:.2f} s. Each row of the table: mean of {ROUNDS} rounds of {STREAM_ROWS:,} rows or "
        f"{NUM_CALLERS * CALLS_EACH} calls.\n",
        flush=True,
    )


def many_callers(service: Service) -> list[float]:
    """Seconds of each call of many callers at the same time."""
    waits: list[float] = []

    def call() -> None:
        with httpx.Client() as client:
            for _ in range(CALLS_EACH):
                seconds = timed(lambda: check(service.ask(client, ROWS_PER_CALL), ROWS_PER_CALL))
                waits.append(seconds)

    threads = [threading.Thread(target=call) for _ in range(NUM_CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(waits) != NUM_CALLERS * CALLS_EACH:
        raise SystemExit("a call failed")
    return waits


def check(answer: httpx.Response, count: int) -> None:
    """Stop unless all rows are there."""
    if answer.status_code != 200 or answer.content.count(b"\n") != count:
        num_rows = answer.content.count(b"\n")
        raise SystemExit(f"status {answer.status_code}, {num_rows} rows of {count}")


def read(service: Service, count: int) -> None:
    """Read one large stream."""
    body = {"count": count, "format": "ndjson"}
    url = f"{service.url}/v1/models/model/generate"
    with httpx.stream("POST", url, json=body, timeout=600) as answer:
        rows = sum(chunk.count(b"\n") for chunk in answer.iter_bytes())
    if rows != count:
        raise SystemExit(f"{rows} rows of {count}")


def rate_in_process(model: str) -> float:
    """Rows a second of a process that holds the model already."""
    command = [sys.executable, __file__, model, "--child"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(json.loads(done.stdout.splitlines()[-1]))


def in_process(model: str) -> None:
    """Print the rate of writing the rows of the stream as JSON Lines."""
    from difflm_core.api import DiffLM

    loaded = DiffLM.from_pretrained(model)
    loaded.sample(2048)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        seconds = timed(lambda: loaded.sample_to(path, STREAM_ROWS, seed=1))
    print(json.dumps(STREAM_ROWS / seconds))


def report_soak(service: Service, minutes: int) -> None:
    """Memory while a stream, small callers and broken connections go on."""
    print("| minute | " + " | ".join(("front", "generator", "Proxy", "Ray")) + " | rows so far |")
    print("|-|-|-|-|-|-|")
    with busy(service) as num_rows:
        for minute in range(minutes + 1):
            memory = service.memory()
            cells = (f"{memory.get(r, 0):,.0f}" for r in ("front", "generator", "Proxy", "Ray"))
            print(f"| {minute} | {' | '.join(cells)} | {num_rows():,} |", flush=True)
            if minute < minutes:
                time.sleep(60)
    print("\nResident MiB of the processes.")


@contextlib.contextmanager
def busy(service: Service) -> Generator[Callable[[], int]]:
    """Keep the service busy; gives the rows read so far."""
    stopped = threading.Event()
    counts = [0] * 8

    def large(index: int) -> None:
        while not stopped.is_set():
            read(service, STREAM_ROWS)
            counts[index] += STREAM_ROWS

    def small(index: int) -> None:
        with httpx.Client() as client:
            while not stopped.is_set():
                check(service.ask(client, ROWS_PER_CALL), ROWS_PER_CALL)
                counts[index] += ROWS_PER_CALL

    def leaving(index: int) -> None:
        body = {"count": STREAM_ROWS, "format": "ndjson"}
        url = f"{service.url}/v1/models/model/generate"
        while not stopped.is_set():
            with httpx.stream("POST", url, json=body, timeout=600) as answer:
                next(answer.iter_bytes())
            counts[index] += 0
            stopped.wait(1)

    work = [large, small, small, small, small, leaving]
    threads = [
        threading.Thread(target=run, args=(index,), daemon=True) for index, run in enumerate(work)
    ]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(counts)
    finally:
        stopped.set()
        for thread in threads:
            thread.join(120)


def timed(run: Callable[[], object]) -> float:
    """Seconds that `run` takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
