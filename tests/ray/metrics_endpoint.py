"""What Prometheus would read from a node of Ray."""

import json
import re
import time
import urllib.request

SAMPLE = re.compile(r"^ray_(difflm_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def scrape(port):
    """Values of all metrics of ours, by name and by the labels that are ours."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    ours = {"stage", "task", "unit", "metric", "column", "reason"}
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        pairs = re.findall(r'(\w+)="([^"]*)"', labels)
        found[name, frozenset((k, v) for k, v in pairs if k in ours)] = float(value)
    return found


def wait_for(port, name, **labels):
    """Scrape until there is such a sample; Ray brings them every ten seconds."""
    deadline = time.monotonic() + 60
    while (name, frozenset(labels.items())) not in (found := scrape(port)):
        assert time.monotonic() < deadline, (name, labels, found)
        time.sleep(1)
    return found


def to_json(found):
    """Write a scrape as one line."""
    return json.dumps([[name, sorted(labels), value] for (name, labels), value in found.items()])


def from_json(text):
    """Read what `to_json` wrote."""
    return {
        (name, frozenset((key, label) for key, label in labels)): value
        for name, labels, value in json.loads(text)
    }
