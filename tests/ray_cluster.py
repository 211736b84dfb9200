"""A Ray cluster of two raylets on this machine, for tests: a program.

It prints the address when both are there. For the line "kill" it ends the second raylet, with all
its workers, by SIGKILL; it ends the cluster when stdin is closed.
"""

from __future__ import annotations

import sys
from typing import Any

STORE_BYTES = 80 << 20


def main() -> None:
    """Run until stdin is closed."""
    from ray.cluster_utils import Cluster

    # Fewer processes: no autoscaler, no forwarding of logs.
    shared: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
    }
    cluster = Cluster(initialize_head=True, head_node_args=shared)
    try:
        second = cluster.add_node(**shared)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line == "kill\n":
                cluster.remove_node(second, allow_graceful=False)
                print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
