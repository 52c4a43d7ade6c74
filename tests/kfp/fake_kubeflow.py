"""A Kubeflow Pipelines server over HTTP, as far as the client uses it."""

import contextlib
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.kfp.servers import JsonHandler, serving

TASKS = [("prepare", "SUCCEEDED", None), ("serialize", "SUCCEEDED", None)]


@dataclass
class Kubeflow:
    """What the server holds; `states` is what a run goes through, one for each look at it."""

    token: str | None = None
    pipelines: dict[str, dict] = field(default_factory=dict)
    versions: list[dict] = field(default_factory=list)
    experiments: list[dict] = field(default_factory=list)
    runs: dict[str, dict] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    states: list[tuple[str, list, str | None]] = field(default_factory=list)
    failing: bool = False


class _Handler(JsonHandler):
    server_state: Kubeflow

    def _refused(self):
        state = self.server_state
        if state.failing:
            self.answer({"error": "the database is full"}, 500)
        elif state.token and self.headers.get("authorization") != f"Bearer {state.token}":
            self.answer({"error": "who are you?"}, 401)
        else:
            return False
        return True

    def do_GET(self):
        if self._refused():
            return
        state, url = self.server_state, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = url.path.removeprefix("/apis/v2beta1/")
        if path == "healthz":
            self.answer({"multi_user": False})
        elif path == "pipelines":
            name = json.loads(query["filter"])["predicates"][0]["stringValue"]
            found = [p for p in state.pipelines.values() if p["display_name"] == name]
            self.answer({"pipelines": found} if found else {})
        elif path.endswith("/versions"):
            # One on each page: a client that reads the first page alone finds nothing.
            start = int(query.get("page_token") or 0)
            page = {"pipeline_versions": state.versions[start : start + 1]}
            if start + 1 < len(state.versions):
                page["next_page_token"] = str(start + 1)
            self.answer(page)
        elif path == "experiments":
            self.answer({"experiments": state.experiments} if state.experiments else {})
        elif path.startswith("runs/"):
            self._run(path.removeprefix("runs/"))
        else:
            self.answer({"error": f"{path} is unknown"}, 404)

    def _run(self, run_id):
        state = self.server_state
        if run_id not in state.runs:
            self.answer({"error": f"run {run_id} not found"}, 404)
            return
        name, tasks, error = state.states.pop(0) if len(state.states) > 1 else state.states[0]
        details = [
            {
                "display_name": task,
                "state": task_state,
                "create_time": f"2026-01-01T00:00:{number:02}Z",
                **({"error": {"message": message}} if message else {}),
            }
            for number, (task, task_state, message) in enumerate(tasks)
        ]
        run = {**state.runs[run_id], "state": name, "run_details": {"task_details": details}}
        self.answer({**run, **({"error": {"message": error}} if error else {})})

    def do_POST(self):
        body = self.body()
        if self._refused():
            return
        state, url = self.server_state, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = url.path.removeprefix("/apis/v2beta1/")
        if path == "pipelines/upload":
            state.uploads.append(body.decode())
            made = {"pipeline_id": f"p{len(state.pipelines)}", "display_name": query["name"]}
            state.pipelines[made["pipeline_id"]] = made
            self.answer(made)
        elif path == "pipelines/upload_version":
            state.uploads.append(body.decode())
            made = {
                "pipeline_id": query["pipelineid"],
                "pipeline_version_id": f"v{len(state.versions)}",
                "display_name": query["name"],
            }
            state.versions.append(made)
            self.answer(made)
        elif path == "experiments":
            made = {**json.loads(body), "experiment_id": "e0"}
            state.experiments.append(made)
            self.answer(made)
        elif path == "runs":
            run_id = f"run-{len(state.runs)}"
            state.runs[run_id] = {**json.loads(body), "run_id": run_id}
            self.answer(state.runs[run_id])


@contextlib.contextmanager
def fake_kubeflow(**values):
    """Start the server; gives what it holds, and its URL."""
    state = Kubeflow(**values)
    with serving(_Handler, server_state=state) as url:
        yield state, url
