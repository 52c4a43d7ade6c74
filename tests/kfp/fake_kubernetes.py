"""A Kubernetes API server with a KubeRay operator, as far as stages and services use them.

It speaks HTTP like the real one, so that the real client is tried out. Its operator runs the
entry point of a RayJob as a process here, or does what a test says.
"""

import contextlib
import json
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from kubernetes import client as kubernetes_client

from components.kubernetes_api import KubernetesApi
from tests.kfp.servers import JsonHandler, serving

NAMESPACE = "team"


@dataclass
class Cluster:
    """What the server holds.

    Attributes:
        objects: resources by plural and name.
        pods: pods by name, each with its labels.
        logs: text of each pod's log; `ended` holds those that are complete.
        requests: method and path of each request, in order.
        down: requests that are answered with 503 before the API is back.
        broken: requests whose connection is cut without an answer.
        forbidden: verbs (HTTP methods) that are answered with 403.
        deleting: answers for which a deleted resource still stands there.
    """

    objects: dict[str, dict[str, dict]] = field(default_factory=dict)
    pods: dict[str, dict] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    config_maps: dict[str, dict] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    down: int = 0
    broken: int = 0
    forbidden: set[str] = field(default_factory=set)
    deleting: int = 0
    operator: object = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 0
    deletions: dict[str, int] = field(default_factory=dict)

    def of(self, plural):
        return self.objects.setdefault(plural, {})

    def put(self, plural, name, resource):
        """Store a resource, and wake those who watch."""
        with self.changed:
            self.version += 1
            resource["metadata"]["resourceVersion"] = str(self.version)
            self.of(plural)[name] = resource
            self.changed.notify_all()

    def set_status(self, plural, name, **status):
        """Do what an operator does; nothing if the resource is gone."""
        with self.changed:
            found = self.of(plural).get(name)
            if found is not None:
                found.setdefault("status", {}).update(status)
                self.put(plural, name, found)

    def remove(self, plural, name):
        with self.changed:
            self.version += 1
            self.of(plural).pop(name, None)
            self.changed.notify_all()

    def log(self, pod, text):
        with self.changed:
            self.logs[pod] = self.logs.get(pod, "") + text
            self.changed.notify_all()

    def end_log(self, pod):
        with self.changed:
            self.ended.add(pod)
            self.changed.notify_all()

    def submitter(self, job):
        """Make the pod that submits a job and shows its log."""
        number = sum(1 for pod in self.pods.values() if pod["job"] == job)
        name = f"{job}-{number}"
        self.pods[name] = {"job": job, "created": f"2026-01-01T00:00:{number:02}Z"}
        self.logs[name] = ""
        return name

    def count(self, method, part=""):
        """Number of requests of a kind."""
        return sum(1 for found, path in self.requests if found == method and part in path)


class _Handler(JsonHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def _error(self, code, message):
        self.answer({"kind": "Status", "code": code, "message": message}, code)

    def _begin(self):
        body = json.loads(self.body() or "null")
        url = urlsplit(self.path)
        cluster = self.cluster
        cluster.requests.append((self.command, self.path))
        if cluster.broken > 0:
            cluster.broken -= 1
            self.close_connection = True
            return None
        if cluster.down > 0:
            cluster.down -= 1
            self._error(503, "etcd has no leader")
            return None
        if self.command in cluster.forbidden:
            self._error(403, "forbidden")
            return None
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        # apis/ray.io/v1/namespaces/NS/PLURAL/NAME or api/v1/namespaces/NS/PLURAL/NAME
        rest = parts[parts.index("namespaces") + 2 :]
        return rest, query, body

    def do_POST(self):
        if (begun := self._begin()) is None:
            return
        (plural,), _, body = begun
        name = body["metadata"]["name"]
        with self.cluster.changed:
            if name in self.cluster.of(plural):
                left = self.cluster.deletions.get(name)
                if left is not None:
                    self.cluster.deletions[name] = left - 1
                    if left <= 1:
                        del self.cluster.deletions[name]
                        self.cluster.remove(plural, name)
                self._error(409, f"{plural} {name!r} already exists")
                return
            body["metadata"]["uid"] = f"uid-{self.cluster.version}"
            body["metadata"]["generation"] = 1
            self.cluster.put(plural, name, body)
        if self.cluster.operator:
            threading.Thread(
                target=self.cluster.operator, args=(self.cluster, plural, name), daemon=True
            ).start()
        self.answer(body, 201)

    def do_PATCH(self):
        if (begun := self._begin()) is None:
            return
        (plural, name), _, body = begun
        found = self.cluster.of(plural)[name]
        found["spec"].update(body["spec"])
        found["metadata"]["generation"] += 1
        self.cluster.put(plural, name, found)
        if self.cluster.operator:
            threading.Thread(
                target=self.cluster.operator, args=(self.cluster, plural, name), daemon=True
            ).start()
        self.answer(found)

    def do_DELETE(self):
        if (begun := self._begin()) is None:
            return
        (plural, name), _, _ = begun
        found = self.cluster.of(plural).get(name)
        if found is None:
            self._error(404, f"{plural} {name!r} not found")
            return
        if self.cluster.deleting:
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.cluster.deletions[name] = self.cluster.deleting
        else:
            self.cluster.remove(plural, name)
        self.answer({"kind": "Status", "status": "Success"})

    def do_GET(self):
        if (begun := self._begin()) is None:
            return
        rest, query, _ = begun
        if rest[0] == "pods":
            self._pods(rest[1:], query)
        elif rest[0] == "configmaps":
            data = self.cluster.config_maps.get(rest[1])
            if data is None:
                self._error(404, "not found")
            else:
                self.answer({"kind": "ConfigMap", "data": data})
        elif len(rest) == 2:
            found = self.cluster.of(rest[0]).get(rest[1])
            self.answer(found) if found else self._error(404, f"{rest[1]!r} not found")
        elif query.get("watch") in ("true", "True"):
            self._watch(rest[0], query)
        else:
            label, _, value = query.get("labelSelector", "").partition("=")
            items = [
                item
                for item in self.cluster.of(rest[0]).values()
                if not label or item["metadata"].get("labels", {}).get(label) == value
            ]
            self.answer({"kind": "List", "metadata": {}, "items": items})

    def _chunks(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _watch(self, plural, query):
        name = query["fieldSelector"].removeprefix("metadata.name=")
        deadline = time.monotonic() + float(query["timeoutSeconds"])
        self._chunks()
        sent = None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                with self.cluster.changed:
                    found = self.cluster.of(plural).get(name)
                    version = found and found["metadata"]["resourceVersion"]
                    if version == sent:
                        self.cluster.changed.wait(0.05)
                        continue
                    kind = "DELETED" if found is None else "ADDED" if sent is None else "MODIFIED"
                    event = {"type": kind, "object": found or {"metadata": {"name": name}}}
                    data = json.dumps(event).encode() + b"\n"
                    sent = version
                self._chunk(data)
                if kind == "DELETED":
                    break
            self._chunk(b"")

    def _pods(self, rest, query):
        if not rest:
            job = query["labelSelector"].removeprefix("job-name=")
            items = [
                {"metadata": {"name": name, "creationTimestamp": pod["created"]}}
                for name, pod in self.cluster.pods.items()
                if pod["job"] == job
            ]
            self.answer({"kind": "PodList", "items": items})
            return
        if len(rest) == 1:
            found = self.cluster.of("pods").get(rest[0])
            self.answer(found) if found else self._error(404, "not found")
            return
        name, sent = rest[0], 0
        self._chunks()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                with self.cluster.changed:
                    text = self.cluster.logs[name]
                    done = name in self.cluster.ended
                    if len(text) == sent and not done:
                        self.cluster.changed.wait(0.05)
                        continue
                if len(text) > sent:
                    self._chunk(text[sent:].encode())
                    sent = len(text)
                if done:
                    break
            self._chunk(b"")


@contextlib.contextmanager
def fake_kubernetes(operator=None):
    """Start the server; gives the cluster and a connection to it."""
    cluster = Cluster(operator=operator)
    with serving(_Handler, cluster=cluster) as url:
        yield cluster, connection(url)


def connection(url, patience_seconds=20.0):
    """A connection to a server, as `components.kubernetes_api.connect` makes one."""
    import urllib3

    configuration = kubernetes_client.Configuration(host=url)
    configuration.retries = urllib3.Retry(0)
    return KubernetesApi(
        kubernetes_client.ApiClient(configuration), NAMESPACE, patience_seconds=patience_seconds
    )


def run_entrypoint(cluster, plural, name):
    """An operator that runs the command of a RayJob here."""
    resource = cluster.of(plural)[name]
    cluster.set_status(plural, name, jobDeploymentStatus="Initializing")
    command = shlex.split(resource["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "components.entrypoint"]
    # The same command line, without the seconds that a Ray takes to start.
    line = [sys.executable, "-m", "difflm_core.cli", *command[3:]]
    pod = cluster.submitter(name)
    cluster.set_status(plural, name, jobDeploymentStatus="Running", jobStatus="RUNNING")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for text in process.stdout:
        cluster.log(pod, text)
    code = process.wait()
    cluster.end_log(pod)
    cluster.set_status(
        plural,
        name,
        jobDeploymentStatus="Failed" if code else "Complete",
        jobStatus="FAILED" if code else "SUCCEEDED",
        message=f"the command ended with {code}",
    )


def play(*statuses, log="", seconds=0.05):
    """An operator that sets one status after the other."""

    def operator(cluster, plural, name):
        pod = cluster.submitter(name)
        cluster.log(pod, log)
        cluster.end_log(pod)
        for status in statuses:
            time.sleep(seconds)
            cluster.set_status(plural, name, **status)

    return operator
