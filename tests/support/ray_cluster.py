"""A Ray cluster of a head without CPUs and some nodes with one each, on loopback, in a process of its own.

python -m tests.support.ray_cluster NODES     prints the address; each line on standard input removes a node, or adds one
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.runs import ROOT

MEMORY = 80 * 2**20


def main() -> None:
    """Serve until standard input ends."""
    cluster_utils: Any = import_module("ray.cluster_utils")

    about = {"node_ip_address": "127.0.0.1", "object_store_memory": MEMORY}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**about, "include_dashboard": False, "num_cpus": 0}
    )
    nodes = [cluster.add_node(num_cpus=1, **about) for _ in range(int(sys.argv[1]))]
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line == "remove\n":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=1, **about))
        sys.stdout.write("done\n")
        sys.stdout.flush()
    cluster.shutdown()


class RayCluster:
    """The cluster, from the test."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self._to, self._from = process.stdin, process.stdout
        self.address = self._line()

    def _line(self) -> str:
        while not (line := self._from.readline().strip()).startswith(("127.", "done")):
            assert line or not self._from.closed
        return line

    def tell(self, word: str) -> None:
        """`remove` or `add`."""
        self._to.write(f"{word}\n")
        self._to.flush()
        self._line()


@contextmanager
def ray_cluster(nodes: int) -> Iterator[RayCluster]:
    """A running cluster on loopback, with a home folder of its own: Ray keeps its token there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        ours = {"HOME": home, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_cluster", str(nodes)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield RayCluster(process)
        finally:
            assert process.stdin and process.stdout
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def actors() -> list[int]:
    """The processes of our actors on this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().startswith(b"ray::Actor"):
                found.append(int(entry.parts[2]))
        except OSError:
            pass
    return sorted(found)


if __name__ == "__main__":
    main()
