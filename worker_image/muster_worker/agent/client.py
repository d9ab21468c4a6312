"""Speaks to the coordinator: JSON over one kept-alive HTTP connection."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Unreachable(OSError):  # noqa: N818 - what happened, not what kind of thing it is
    """No answer. `gone`: somebody is at that address, and says that nothing listens there."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


class CoordinatorClient:
    """Not for use by two threads at once. The name is looked up anew at each new connection: pod 0 may move."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self._connection: http.client.HTTPConnection | None = None
        self._forgotten = False
        self.peer: tuple[str, int] | None = None
        """Where the last answer came from: asking there again needs no name server, which may be lost as well."""

    def post(self, path: str, document: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Raises `Unreachable`."""
        if self._forgotten:
            self._forgotten = False
            self.close()
        fresh = self._connection is None
        try:
            return self._post(path, document, timeout)
        except ConnectionRefusedError as error:
            self.close()
            raise Unreachable(str(error), gone=True) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                raise Unreachable(f"{type(error).__name__}: {error}", gone=False) from error
        return self.post(path, document, timeout)  # the kept connection was stale: once more over a new one

    def is_there(self, timeout: float) -> bool:
        """Whether an agent answers there, over a connection of its own."""
        return self._get("/healthz", timeout) is not None

    def pod_attempt(self, job: str, timeout: float) -> int | None:
        """The fencing token of the pod there, asked over a connection of its own; None where none of this job is."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            state = json.loads(self._get("/state", timeout) or "null")
            return int(state["podAttempt"]) if state["job"] == job else None
        return None

    def _get(self, path: str, timeout: float) -> bytes | None:
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.read() if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def forget(self) -> None:
        """From another thread: the next request goes over a new connection, to wherever the name leads then."""
        self._forgotten = True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, path: str, document: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        connection = self._connection
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{path}: {response.status} {text[:200]!r}")
        if connection.sock is not None:
            self.peer = connection.sock.getpeername()[:2]
        found: dict[str, Any] = json.loads(text)
        return found
