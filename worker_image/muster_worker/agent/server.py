"""The agent's HTTP server: `/state`, `/metrics`, `/healthz`, and the coordinator on the pod with rank 0.

Each request has a thread, so that a slow client holds up nobody, least of all the agent. Questions to the
coordinator are held until there is something new to say, for `HOLD` seconds at most: a broken round is known to
everybody at once.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from muster_worker.agent.protocol import (
    Elsewhere,
    Healthy,
    ProtocolError,
    Wait,
    answer_to_json,
    failures_from_json,
    join_from_json,
    ranks_from_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from muster_worker.agent.coordinator import Coordinator
    from muster_worker.agent.protocol import Answer

HOLD = 0.5
TICK = 0.25
LARGEST_REQUEST = 1 << 20


class CoordinatorDesk:
    """The coordinator, for use by many threads: one at a time, and waiting for changes."""

    def __init__(self, coordinator: Coordinator, clock: Callable[[], float] = time.monotonic) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._tick, name="coordinator", daemon=True).start()

    def answer(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """One request of a member. Raises `ProtocolError`; KeyError when there is no such path."""
        handle = {"join": self._join, "beat": self._beat, "fail": self._fail, "leave": self._leave}[path]
        try:
            return handle(document)
        except KeyError as error:
            raise ProtocolError(f"{path}: {error} is missing") from error

    def consult(self, question: Callable[[Coordinator, float], Any]) -> Any:
        """Calls `question(coordinator, now)` while nobody else does."""
        with self._changed:
            version = self._coordinator.version
            try:
                return question(self._coordinator, self._clock())
            finally:
                self._notify(version)

    def wait_until(self, condition: Callable[[Coordinator, float], bool], limit: float) -> bool:
        deadline = self._clock() + limit
        with self._changed:
            while not condition(self._coordinator, self._clock()):
                left = deadline - self._clock()
                if left <= 0:
                    return False
                self._changed.wait(min(left, TICK))
        return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _join(self, document: Mapping[str, Any]) -> dict[str, Any]:
        join = join_from_json(document)
        member = join.member.id
        return self._held(
            lambda coordinator, now: coordinator.join(now, join),
            lambda coordinator, _: coordinator.answer_to_join(member, join.left),
            Wait,
        )

    def _beat(self, document: Mapping[str, Any]) -> dict[str, Any]:
        member, round_id, done = document["member"], document["round"], bool(document.get("done"))
        stopped = ranks_from_json(document.get("stopped", ()))
        return self._held(
            lambda coordinator, now: coordinator.beat(now, member, round_id, done=done, stopped=stopped),
            lambda coordinator, now: coordinator.answer_to_beat(now, member, round_id),
            Healthy,
        )

    def _fail(self, document: Mapping[str, Any]) -> dict[str, Any]:
        failures = failures_from_json(document["failures"])
        member, round_id = document["member"], document["round"]
        self.consult(lambda coordinator, now: coordinator.fail(now, member, round_id, failures))
        return {}

    def _leave(self, document: Mapping[str, Any]) -> dict[str, Any]:
        member, round_id, reform = document["member"], document["round"], bool(document.get("reform"))
        self.consult(lambda coordinator, now: coordinator.leave(now, member, round_id, reform=reform))
        return {}

    def _held(
        self,
        say: Callable[[Coordinator, float], Answer],
        ask: Callable[[Coordinator, float], Answer],
        nothing_new: type[Answer],
    ) -> dict[str, Any]:
        deadline = self._clock() + HOLD
        with self._changed:
            version = self._coordinator.version
            answer = say(self._coordinator, self._clock())
            self._notify(version)
            while isinstance(answer, nothing_new) and not self._closed:
                left = deadline - self._clock()
                if left <= 0:
                    break
                self._changed.wait(left)
                answer = ask(self._coordinator, self._clock())
        return answer_to_json(answer)

    def _notify(self, version: int) -> None:
        if self._coordinator.version != version:
            self._changed.notify_all()

    def _tick(self) -> None:
        with self._changed:
            while not self._closed:
                version = self._coordinator.version
                self._coordinator.tick(self._clock())
                self._notify(version)
                self._changed.wait_for(lambda: self._closed, TICK)


class AgentServer(socketserver.ThreadingTCPServer):
    """`state` and `metrics` make the answers; `desk` is None while this pod does not host the coordinator."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        state: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], bytes],
        desk: CoordinatorDesk | None,
    ) -> None:
        self.state = state
        self.metrics = metrics
        self.desk = desk
        both = not address[0] and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if both or ":" in address[0] else socket.AF_INET
        self._both = both
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: AgentServer

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, b"ok\n", "text/plain")
        elif self.path.partition("?")[0] == "/state":
            self._hear_the_operator(parse_qs(self.path.partition("?")[2]))
            self._answer(200, json.dumps(self.server.state()).encode(), "application/json")
        elif self.path == "/metrics":
            self._answer(200, self.server.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self._refuse(404, f"{self.path} is not here: /state, /metrics and /healthz are")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            self._refuse(413, f"Content-Length is {length!r}: it must be a number up to {LARGEST_REQUEST}")
            return
        text = self.rfile.read(int(length))
        desk = self.server.desk
        if desk is None:
            self._answer(200, json.dumps(answer_to_json(Elsewhere())).encode(), "application/json")
            return
        try:
            document = json.loads(text)
            if not isinstance(document, dict):
                raise ProtocolError("the body must be a JSON object")
            answer = desk.answer(self.path.removeprefix("/coordinator/"), document)
        except KeyError:
            self._refuse(404, f"{self.path} is not here")
        except ValueError as error:
            self._refuse(400, str(error))
        else:
            self._answer(200, json.dumps(answer).encode(), "application/json")

    def _hear_the_operator(self, said: Mapping[str, list[str]]) -> None:
        """`word` is the one that this part of a torn group asks for; `gone` are pods."""
        desk = self.server.desk
        if desk is not None and said:
            word, gone = said.get("word", [None])[0], said.get("gone", ())
            desk.consult(lambda coordinator, now: coordinator.hear(now, word, gone))

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name in http.server
        """Half a line a second and member is not worth a log."""

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, json.dumps({"error": message}).encode(), "application/json")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        # One write: a second small one would wait for the other side's delayed acknowledgement.
        head = (
            f"HTTP/1.1 {status} {self.responses[status][0]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            self.wfile.write(head.encode() + body)
