"""An embedded Ray is reachable from this machine only."""

import contextlib
import ipaddress

import psutil
import pytest

from tests.unit.toy_stages import MakeNumberWorker, make_shards

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


def listening():
    """Address and process of every port that is open in this process and its children."""
    me = psutil.Process()
    found = []
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # some come and go
            for socket in process.net_connections(kind="inet"):
                if not socket.raddr:
                    found.append((ipaddress.ip_address(socket.laddr.ip), process.name()))
    return found


def test_every_port_is_on_the_loopback(launcher, tmp_path):
    seen = []
    shards = make_shards(str(tmp_path), num_rows=6, shard_rows=3)
    launcher.map_shards(MakeNumberWorker(10), shards, 2, on_rows=lambda _: seen.extend(listening()))
    assert {"gcs_server", "raylet"} <= {name for _, name in seen}
    assert len(seen) > 10
    outside = {
        (str(address), name)
        for address, name in seen
        if not (getattr(address, "ipv4_mapped", None) or address).is_loopback
    }
    assert not outside
