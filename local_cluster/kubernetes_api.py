"""A small client of the API server: JSON over TLS with a client certificate, or a token-less kubeconfig."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from local_cluster.errors import ClusterError

Object = dict[str, Any]

_PLURALS = {"StorageClass": "storageclasses", "NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}
_CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "StorageClass", "Namespace", "Node", "PersistentVolume"}


class ApiError(ClusterError):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(f"the API server answered {status}: {message}")


@dataclass(frozen=True)
class Access:
    """Where the API server is and the files that open it."""

    host: str
    port: int
    authority: Path
    certificate: Path
    key: Path


class Api:
    def __init__(self, access: Access, timeout: float = 5.0) -> None:
        self._kept: http.client.HTTPSConnection | None = None
        self._access = access
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=str(access.authority))
        self._tls.load_cert_chain(access.certificate, access.key)

    def __del__(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def ready(self) -> bool:
        try:
            self._exchange("GET", "/readyz", None, "application/json")
        except (OSError, http.client.HTTPException, ApiError):
            return False
        return True

    def get(self, path: str, **query: str) -> Object:
        return self.request("GET", path, query=query)

    def find(self, path: str) -> Object | None:
        """Like get; None when there is no such object."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str, **query: str) -> list[Object]:
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def create(self, path: str, body: Object) -> Object:
        return self.request("POST", path, body)

    def merge(self, path: str, body: Object) -> Object:
        return self.request("PATCH", path, body, content_type="application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Deletes; an object that is not there is fine."""
        with contextlib.suppress(_NotFoundError):
            self.request("DELETE", path)

    def apply(self, manifest: Object) -> Object:
        """Server-side apply, as the field manager `local-cluster`."""
        query = {"fieldManager": "local-cluster", "force": "true"}
        content = "application/apply-patch+yaml"
        return self.request("PATCH", path_of(manifest), manifest, query=query, content_type=content)

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            answer = self._exchange(method, target, body, content_type)
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"the API server at {self._access.host} does not answer: {error}") from error
        decoded: Object = json.loads(answer)
        return decoded

    def watch(self, path: str, version: str) -> Iterator[Object]:
        """The events after `version`, until the server ends the stream or something breaks."""
        connection = http.client.HTTPSConnection(self._access.host, self._access.port, context=self._tls, timeout=70)
        with contextlib.closing(connection):
            query = urlencode({"watch": "true", "resourceVersion": version, "timeoutSeconds": "60"})
            connection.request("GET", f"{path}?{query}")
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, _message(response.read()))
            while line := response.readline():
                yield json.loads(line)

    def _exchange(self, method: str, target: str, body: Object | None, content_type: str) -> bytes:
        payload = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        connection = self._kept or http.client.HTTPSConnection(
            self._access.host, self._access.port, context=self._tls, timeout=self._timeout
        )
        self._kept = None
        try:
            connection.request(method, target, body=payload, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except BaseException:
            connection.close()
            raise
        self._kept = connection
        if response.status == 404:
            raise _NotFoundError(404, _message(answer))
        if response.status >= 300:
            raise ApiError(response.status, _message(answer))
        return answer


class _NotFoundError(ApiError):
    pass


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:300]


def path_of(manifest: Object) -> str:
    """Where in the API an object lives."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    metadata = manifest["metadata"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    place = "" if kind in _CLUSTER_WIDE else f"/namespaces/{quote(metadata.get('namespace', 'default'))}"
    return f"{base}{place}/{plural}/{quote(metadata['name'], safe=':')}"
