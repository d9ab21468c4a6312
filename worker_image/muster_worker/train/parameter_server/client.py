"""A worker's end: leases from the first server, parameters from all, gradients to all."""

from __future__ import annotations

import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.parameter_server.leases import Lease
from muster_worker.train.parameter_server.server import KEEP_ALIVE, SERVICE
from muster_worker.train.parameter_server.wire import LARGEST_MESSAGE, messages, received
from muster_worker.train.preflight import MESSAGE, MESSAGES, ROUND_TRIPS, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

CHANNEL = [
    *KEEP_ALIVE,
    # A server that comes back may have another address: a new channel is to look it up, and not to wait for long.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # which is how long it tries to connect to where nobody answers
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]
PAUSE = 0.3
"""Seconds between two tries to reach servers that do not answer."""


class Client:
    """`bytes_sent` and `bytes_received` count gradients and parameters, without what gRPC adds."""

    def __init__(
        self, addresses: Sequence[str], name: str, fingerprint: str, figures: Callable[[list[Link]], dict[str, Any]]
    ) -> None:
        """`figures`: what the first server is told of this machine, by its links to all servers."""
        self._addresses, self._name, self._fingerprint = addresses, name, fingerprint
        self._figures = figures
        self._measured: dict[str, Any] = {}
        self._places: list[str] = []
        """Where the servers were when that was measured."""
        self._threads = ThreadPoolExecutor(len(addresses), "exchange")
        self._channels: list[grpc.Channel] = []
        self.bytes_sent = self.bytes_received = 0

    def work(self, compute: Callable[[Lease], Any], lost: Callable[[], None]) -> None:
        """Computes whatever is leased until there is nothing more to do, through any loss of servers.

        `compute` gives what the first server is told. `lost` is called when a lease came to nothing. Raises
        ConfigurationError where the servers have another model.
        """
        complained = False
        while True:
            try:
                self._connect()
                for lease in self._session(compute):
                    complained = False
                    if lease.kind == "end":
                        return
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                    raise ConfigurationError(f"spec.recipe: {error.details()}") from error
                if not complained:
                    complained = True
                    log.warning("%s waits for the servers: %s", self._name, error.details() or error.code())
            lost()
            time.sleep(PAUSE)

    def _connect(self) -> None:
        for channel in self._channels:
            channel.close()
        self._channels = [grpc.insecure_channel(address, options=CHANNEL) for address in self._addresses]

    def _session(self, compute: Callable[[Lease], Any]) -> Iterator[Lease]:
        places = [_place_of(address) for address in self._addresses]
        if places != self._places:  # a server that was lost is in another pod, maybe on another machine
            self._measured = self._figures([_measured(channel) for channel in self._channels])
            self._places = places
        hello = {"name": self._name, "fingerprint": self._fingerprint, "preflight": self._measured}
        said: SimpleQueue[bytes | None] = SimpleQueue()
        said.put(json.dumps(hello).encode())
        call = self._channels[0].stream_stream(f"/{SERVICE}/Work")(iter(said.get, None))
        try:
            for message in call:
                lease = Lease(**json.loads(message))
                yield lease
                said.put(json.dumps(compute(lease)).encode())
        finally:
            said.put(None)
            call.cancel()

    def pull(self, lease: Lease, known: Sequence[int | None]) -> list[tuple[int, bytearray]]:
        """From each server the version and the parameters that the lease asks for; no bytes where it is the known."""

        def ask(number: int) -> tuple[int, bytearray]:
            question = {"run": lease.run, "atLeast": lease.version, "known": known[number]}
            answers = self._channels[number].unary_stream(f"/{SERVICE}/Pull")(json.dumps(question).encode())
            told = json.loads(next(answers))
            return told["version"], received(answers, told["bytes"])

        found = list(self._threads.map(ask, range(len(self._addresses))))
        self.bytes_received += sum(len(payload) for _, payload in found)
        return found

    def push(self, lease: Lease, payloads: Sequence[bytearray], *, quantized: bool) -> None:
        """To each server its part of the gradient; returns once all have it."""

        def tell(number: int) -> None:
            payload = payloads[number]
            told = {"run": lease.run, "step": lease.step, "share": lease.share, "quantized": quantized}
            first = json.dumps(told | {"bytes": len(payload)}).encode()
            self._channels[number].stream_unary(f"/{SERVICE}/Push")(_after(first, messages(payload)))

        list(self._threads.map(tell, range(len(self._addresses))))
        self.bytes_sent += sum(map(len, payloads))


def _place_of(server: str) -> str:
    """Return the address that its name has now; the name while it has none."""
    name, _, port = server.rpartition(":")
    try:
        return str(socket.getaddrinfo(name, port)[0][4][0])
    except OSError:
        return name


def _measured(channel: grpc.Channel) -> Link:
    """By messages there and back, once nobody else measures that server."""
    said: SimpleQueue[bytes | None] = SimpleQueue()
    answers = channel.stream_stream(f"/{SERVICE}/Echo")(iter(said.get, None))

    def exchange(count: int, size: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            said.put(bytes(size))
        for _ in range(count):
            next(answers)
        return time.perf_counter() - began

    try:
        next(answers)
        latency = min(exchange(1, 1) for _ in range(ROUND_TRIPS))
        seconds = min(exchange(MESSAGE // LARGEST_MESSAGE, LARGEST_MESSAGE) for _ in range(MESSAGES))
    finally:
        said.put(None)
    return Link(latency, 2 * MESSAGE / seconds)


def _after(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others
