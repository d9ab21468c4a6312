"""A server on the network: gRPC, with bytes of our own in its messages, in four calls.

- `Work`, to the first server: a worker says what it is, then hears of leases and tells what came of each. As long as
  the call lasts the worker is there; when it breaks, the worker is lost, and its lease is another's.
- `Pull` and `Push`, to each server: its parameters, and a share's gradient, in messages of a bounded size.
- `Echo`, to each server, before: gives back what it is sent, to one worker after the other, which measures it.

The first message of a call, and of the answer to `Pull`, is JSON. That of the answer to `Echo` is empty, and says that
it is the worker's turn. gRPC itself says whether the other side lives.
"""

from __future__ import annotations

import json
import logging
import threading
from concurrent import futures
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from muster_worker.train.errors import TrainingError
from muster_worker.train.parameter_server.wire import messages, received

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster_worker.train.parameter_server.leases import Leases
    from muster_worker.train.parameter_server.measured import Measured
    from muster_worker.train.parameter_server.shard import Shard

log = logging.getLogger(__name__)

SERVICE = "muster.ParameterServer"
KEEP_ALIVE = [
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
]
"""Whose node is lost, or who is stopped, answers no ping: both sides know within six seconds."""

PATIENCE = 1.0
"""Seconds after which a call that waits looks whether somebody still waits for it."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server has to give. `leases` and `measured`: the first server's alone."""

    run: str
    fingerprint: str
    shard: Shard
    leases: Leases | None
    measured: Measured | None


def listen(address: str, served: Served, workers: int) -> grpc.Server:
    """A server that answers there; raises TrainingError when nothing can listen there.

    `address`: as workers know it. `workers`: how many there are; each has a lease, pulls, pushes or measures, at once.
    """
    options = [*KEEP_ALIVE, ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(4 * workers + 4, "serve"), options=options)
    calls = _Calls(served)
    handlers = {
        "Work": grpc.stream_stream_rpc_method_handler(calls.work),
        "Pull": grpc.unary_stream_rpc_method_handler(calls.pull),
        "Push": grpc.stream_unary_rpc_method_handler(calls.push),
        "Echo": grpc.stream_stream_rpc_method_handler(calls.echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = address.rpartition(":")[2]
    try:
        server.add_insecure_port(f"[::]:{port}")
    except RuntimeError as error:
        raise TrainingError(f"MUSTER_PARAMETER_SERVERS: nothing can listen at port {port}: {error}") from error
    server.start()
    return server


class _Calls:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._shard = served.shard
        self._echoes = threading.Lock()

    def work(self, said: Iterator[bytes], context: Any) -> Iterator[bytes]:
        hello = json.loads(next(said))
        leases, measured = self._served.leases, self._served.measured
        if leases is None or measured is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "leases are the first server's: MUSTER_PARAMETER_SERVERS")
        if hello["fingerprint"] != self._served.fingerprint:
            wrong = "the worker's model is another than the servers': wanted the same recipe, config and image in all"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        assert leases is not None
        assert measured is not None
        holder, name = object(), hello["name"]
        leases.come(holder)
        measured.come(holder, hello["preflight"])

        def gone() -> None:
            measured.go(holder)
            _release(leases, holder, name)

        context.add_callback(gone)
        log.info("%s is here", name)
        while context.is_active():
            lease = leases.take(holder, PATIENCE)
            if lease is None:
                continue
            if not context.is_active():
                _release(leases, holder, name)  # its callback may have been called before it had this one
                return
            yield json.dumps(lease.as_json()).encode()
            if lease.kind == "end":
                return
            told = _next(said)
            if told is None:
                return
            leases.finish(holder, json.loads(told))

    def pull(self, question: bytes, context: Any) -> Iterator[bytes]:
        asked = json.loads(question)
        self._check(asked, context)
        while (found := self._shard.pull(asked["atLeast"], asked["known"], PATIENCE)) is None:
            if not context.is_active():
                return
        version, payload = found
        yield json.dumps({"version": version, "bytes": len(payload)}).encode()
        yield from messages(payload)

    def push(self, said: Iterator[bytes], context: Any) -> bytes:
        told = json.loads(next(said))
        self._check(told, context)
        try:
            payload = received(said, told["bytes"])
            self._shard.push(told["step"], told["share"], payload, quantized=told["quantized"])
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the gradient cannot be read: {error}")
        return b""

    def echo(self, said: Iterator[bytes], context: Any) -> Iterator[bytes]:
        while not self._echoes.acquire(timeout=PATIENCE):
            if not context.is_active():
                return
        try:
            yield b""
            while (message := _next(said)) is not None:
                yield message
        finally:
            self._echoes.release()

    def _check(self, asked: dict[str, Any], context: Any) -> None:
        if asked["run"] != self._served.run:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the servers have started anew: ask for another lease")


def _next(said: Iterator[bytes]) -> bytes | None:
    """None once the other side is gone."""
    try:
        return next(said, None)
    except grpc.RpcError:
        return None


def _release(leases: Leases, holder: object, name: str) -> None:
    left = leases.release(holder)
    if left is not None:
        log.info("%s is lost: share %d of step %d is another's to compute", name, left.share, left.step)
