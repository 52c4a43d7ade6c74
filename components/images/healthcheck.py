"""Health of a container: that of its Ray node, if one runs in it.

A head or a worker is healthy when Ray's agent says so. A container without a Ray node (a step of a
pipeline, a command) has nothing to ask: it is healthy as long as it runs. Only Docker and its like
call this; on Kubernetes, KubeRay probes the same address by itself.
"""

import http.client
import sys

# Ray's default (--dashboard-agent-listen-port), which KubeRay keeps, too.
_DEFAULT_PORT = 52365
_TIMEOUT_SECONDS = 5


def is_healthy(port: int) -> bool:
    """Ask the agent of the Ray node on this machine; true if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/api/healthz")  # needs no token, unlike most of Ray's paths
        return connection.getresponse().status == http.HTTPStatus.OK
    except ConnectionRefusedError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_healthy(int(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT_PORT))
