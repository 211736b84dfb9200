"""A Ray cluster of two raylets on this machine, for tests: a program.

It prints the address when both are there. For the line "kill" it ends the second raylet, with all
its workers, by SIGKILL; it ends the cluster when stdin is closed.
"""

from __future__ import annotations

import itertools
import socket
import sys
from contextlib import ExitStack
from typing import Any

STORE_BYTES = 80 << 20
PORTS = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port",
         "runtime_env_agent_port")  # fmt: skip
"""Given, for a raylet ends itself if its agents haven't found ports within 30 s."""


def free_ports(n: int) -> list[int]:
    """Return free ports, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def main() -> None:
    """Run until stdin is closed."""
    from ray.cluster_utils import Cluster

    ports = iter(free_ports(2 * len(PORTS)))
    shared: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    head, other = (
        shared | dict(zip(PORTS, itertools.islice(ports, len(PORTS)), strict=True))
        for _ in range(2)
    )
    cluster = Cluster(
        initialize_head=True,
        head_node_args=head
        | {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True},
    )
    try:
        second = cluster.add_node(**other, include_log_monitor=False)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line == "kill\n":
                cluster.remove_node(second, allow_graceful=False)
                print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
