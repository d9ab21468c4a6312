"""A server as a process."""

from __future__ import annotations

import subprocess
import sys

from tests.ports import free_ports

LIMIT = 60.0


class Served:
    """`muster-worker serve DIRECTORY WORDS…` on free ports, or another command of the same words."""

    def __init__(self, directory, *words, port=None, grpc_port=None, command="serve"):
        free = free_ports(2)
        self.port, self.grpc_port = port or free[0], grpc_port or free[1]
        ports = "--port", str(self.port), "--grpc-port", str(self.grpc_port)
        line = [sys.executable, "-m", "muster_worker", command, str(directory), *ports, *words]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def until(self, words):
        """The line in which it says so."""
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"it ended with {self.process.wait()} and never said {words!r}")

    def rest(self):
        """What it says until its end."""
        output, _ = self.process.communicate(timeout=LIMIT)
        return output

    def client(self):
        import tritonclient.http

        return tritonclient.http.InferenceServerClient(f"127.0.0.1:{self.port}", concurrency=4)

    def grpc_client(self):
        import tritonclient.grpc

        return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.grpc_port}")

    def stop(self):
        if not self.process.stdout.closed:
            self.process.kill()
            self.process.communicate()
