"""The one place that speaks to the API server.

`Client` is what the rest of the operator knows; `KubernetesClient` is it over HTTP. Objects go in and out as
the plain dicts that JSON gives: typed models of the `kubernetes` package cost twenty times the parsing. From
that package come the configuration (in-cluster, kubeconfig, tokens that expire) and the transport.

What may be repeated without harm (everything but a create and a replace) is repeated after 5xx and broken
connections; a 429 is repeated for every verb, since the server says that it did nothing. Every call has a
limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

Object: TypeAlias = dict[str, Any]

FIELD_MANAGER = "muster"
"""The owner of every field that Muster applies."""

_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_METADATA_ALONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_CHUNK = 250  # objects a LIST answer: 2 MB of pods, and ten times that while it is parsed


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object and where the API server keeps it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL's path; without a namespace, of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (f"{root}{scope}/{self.plural}", name, subresource) if part)


PODS = Kind("", "v1", "pods", "Pod")
SERVICES = Kind("", "v1", "services", "Service")
NODES = Kind("", "v1", "nodes", "Node", namespaced=False)
EVENTS = Kind("events.k8s.io", "v1", "events", "Event")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
BUDGETS = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
AUTOSCALERS = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
REVISIONS = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
SLICES = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
VOLUME_CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
PRIORITY_CLASSES = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
DEFINITIONS = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
COSCHEDULING_GROUPS = Kind("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup")
LOCAL_QUEUES = Kind("kueue.x-k8s.io", "v1beta1", "localqueues", "LocalQueue")
WORKLOADS = Kind("kueue.x-k8s.io", "v1beta1", "workloads", "Workload")
FLAVORS = Kind("kueue.x-k8s.io", "v1beta1", "resourceflavors", "ResourceFlavor", namespaced=False)
HTTP_ROUTES = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
VOLCANO_GROUPS = Kind("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup")
DEVICE_CLASSES = Kind("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False)
RESOURCE_CLAIMS = Kind("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
RESOURCE_CLAIM_TEMPLATES = Kind("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
STORAGE_CLASSES = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)


class NoCluster(Exception):  # noqa: N818
    """Nothing says where the API server is, or who we are."""


class ApiError(Exception):
    """The API server refused a call, or did not answer it.

    `status` is 0 when there was no answer. `message` is what the server said, without the call.
    """

    def __init__(
        self, call: str, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"{call}: {f'{status} {reason}: ' if status else ''}{message}")
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class NotFound(ApiError):  # noqa: N818
    """404: the object, or its kind, does not exist."""


class Unauthorized(ApiError):  # noqa: N818
    """401: the credentials are no longer good."""


class Conflict(ApiError):  # noqa: N818
    """409: the object is no longer the one that the caller saw."""


class AlreadyExists(Conflict):
    """409 of a create: an object of that name is there."""


class Expired(ApiError):  # noqa: N818
    """410: the resource version or the continue token is too old."""


class Invalid(ApiError):  # noqa: N818
    """400, 403, 422: refused, and it will be however often it is asked: by schema, rights, quota or policy."""


class TooManyRequests(ApiError):  # noqa: N818
    """429: not done; to be tried again after `retry_after` seconds."""


class ServerError(ApiError):
    """5xx: it may or may not have been done."""


class Unreachable(ApiError):  # noqa: N818
    """No answer within the limit, or the connection broke: it may or may not have been done."""


_BY_STATUS = {
    400: Invalid,
    401: Unauthorized,
    403: Invalid,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a LIST, and the version of the collection that it shows."""

    items: list[Object]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Only:
    """Which object is meant by its name: the one with this UID, and, where given, unchanged since."""

    uid: str
    resource_version: str | None = None


class Client(Protocol):
    """What the operator asks of an API server. Every method raises an `ApiError`."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object: ...

    async def exists(self, kind: Kind, namespace: str | None, name: str) -> bool:
        """Whether there is such an object; nothing of its content is read."""

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        each: Callable[[Object], Object] | None = None,
    ) -> Listing:
        """`each` makes of every item what is wanted of it, before the next ones are read: a long list stays small."""

    async def create(self, kind: Kind, manifest: Mapping[str, Any]) -> Object: ...

    async def replace(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        """Write the whole object; `metadata.resourceVersion` is a precondition."""

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> Object:
        """Server-side apply: what an earlier apply set and this one leaves out is removed.

        Without `force`, a field that somebody else has set otherwise is a `Conflict`.
        """

    async def apply_status(self, kind: Kind, manifest: Mapping[str, Any], *, owner: str = FIELD_MANAGER) -> Object:
        """Server-side apply of `status`; `metadata.resourceVersion`, if given, is a precondition."""

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, only: Only, grace_seconds: int | None = None
    ) -> Object:
        """Delete the object if it is the one that is meant, else raise `Conflict`.

        The answer is the object as it is while it terminates, or a `Status` when it is gone.
        """


@dataclass(frozen=True, slots=True)
class Call:
    """One finished HTTP request, for metrics and for whoever must know that a watch was begun anew."""

    verb: str
    resource: str
    code: str
    seconds: float


def classify(method: str, path: str, query: Mapping[str, str]) -> tuple[str, str]:
    """Verb and resource of a request in Kubernetes' words: ("list", "pods"), ("apply", "services")."""
    parts = path.strip("/").split("/")
    parts = parts[3:] if parts[0] == "apis" else parts[2:]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    resource = parts[0] if parts else "discovery"
    if method == "GET":
        return ("watch" if "watch" in query else "list" if len(parts) == 1 else "get"), resource
    verbs = {"POST": "create", "PUT": "replace", "PATCH": "apply", "DELETE": "delete"}
    return verbs.get(method, method.lower()), resource


Observer: TypeAlias = "Callable[[Call], None]"


class _Transport(RESTClientObject):  # type: ignore[misc]
    """The package's transport; each request is authorised anew (tokens expire) and told to the observer."""

    def __init__(
        self, configuration: Configuration, observer: Observer | None, listed_elsewhere: Collection[str] = ()
    ) -> None:
        configuration.client_session_kwargs = {
            "middlewares": (self._leave_out_what_is_listed_elsewhere, self._observe, self._authorise),
            "proxy": configuration.proxy,
            # aiohttp would look for a proxy and for a ~/.netrc anew with every request, each in a thread.
            "trust_env": False,
        }
        super().__init__(configuration)
        self._observer = observer
        self._listed_elsewhere = listed_elsewhere

    def new_session(self) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = self._create_pool_manager()
        return session

    async def _leave_out_what_is_listed_elsewhere(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Ask for none of the objects, by a name that none can have: the answer still has the version to go on from."""
        verb, resource = classify(request.method, request.url.path, request.url.query)
        if verb == "list" and resource in self._listed_elsewhere:
            request.url = request.url.update_query(fieldSelector="metadata.name=-")
        return await handler(request)

    async def _authorise(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        for setting in (await self.configuration.auth_settings()).values():
            request.headers[setting["key"]] = setting["value"]
        return await handler(request)

    async def _observe(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self._observer is None:
            return await handler(request)
        started, code = time.monotonic(), "unreachable"
        try:
            response = await handler(request)
            code = str(response.status)
            return response
        finally:
            verb, resource = classify(request.method, request.url.path, request.url.query)
            self._observer(Call(verb, resource, code, time.monotonic() - started))


async def load_configuration() -> Configuration:
    """Where the API server is, who we are: $KUBECONFIG, else the pod's account, else ~/.kube/config."""
    configuration = Configuration()
    try:
        await _load(configuration)
    except kubernetes_config.ConfigException as error:
        raise NoCluster(
            f"no cluster to speak to: {error}. Wanted: KUBECONFIG set to a kubeconfig, or a pod with a service account"
        ) from error
    # Python 3.13 and later refuse certificates that RFC 5280 calls incomplete (an authority without key usage, for
    # one). Many clusters have them, and Kubernetes' own clients accept them; the chain is verified all the same.
    configuration.disable_strict_ssl_verification = True
    configuration.proxy = configuration.proxy or _proxy_of_environment(configuration.host)
    return configuration


def _proxy_of_environment(server: str) -> str | None:
    """The proxy that $HTTPS_PROXY and $NO_PROXY name for this server."""
    address = urlsplit(server)
    return None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)


async def _load(configuration: Configuration) -> None:
    if _IN_CLUSTER in os.environ and "KUBECONFIG" not in os.environ:
        kubernetes_config.load_incluster_config(client_configuration=configuration)
    else:
        await kubernetes_config.load_kube_config(
            config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how often the client tries. Seconds, but for `connections` and `attempts`."""

    call: float = 10.0
    attempts: int = 5
    connections: int = 32
    pauses: tuple[float, ...] = field(default=(0.1, 0.3, 1.0, 2.0))
    longest_pause: float = 10.0


class KubernetesClient:
    """`Client` over HTTP. One for the whole process, but for those `beside` it; `close` ends its connections."""

    _content_types: ClassVar[dict[str, str]] = {"PATCH": "application/apply-patch+yaml"}

    def __init__(
        self,
        configuration: Configuration,
        *,
        observer: Observer | None = None,
        limits: Limits | None = None,
        reload: Callable[[], Awaitable[Configuration]] | None = None,
    ) -> None:
        self._limits = limits or Limits()
        configuration.connection_pool_maxsize = self._limits.connections
        self._configuration, self._observer = configuration, observer
        self._transport = _Transport(configuration, observer)
        self._reload = reload

    @classmethod
    async def connect(cls, observer: Observer | None = None) -> KubernetesClient:
        return cls(await load_configuration(), observer=observer, reload=load_configuration)

    @property
    def server(self) -> str:
        return str(self._configuration.host)

    def beside(self, connections: int) -> KubernetesClient:
        """One with connections of its own, for what must not wait for its turn behind the rest. To be closed, too."""
        limits = replace(self._limits, connections=connections)
        return KubernetesClient(self._copied(), observer=self._observer, limits=limits, reload=self._reload)

    def _copied(self) -> Configuration:
        configuration = Configuration()
        vars(configuration).update(vars(self._configuration))
        return configuration

    def watching_session(self, observer: Observer, listed_elsewhere: Collection[str]) -> aiohttp.ClientSession:
        """A session of its own for watches: they hold their connections, so their number has no limit.

        Lists of the resources (by plural) that are `listed_elsewhere` answer with a version and no objects.
        """
        configuration = self._copied()
        configuration.connection_pool_maxsize = 0
        return _Transport(configuration, observer, listed_elsewhere).new_session()

    async def close(self) -> None:
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        return await self._request("GET", kind.path(namespace, name))

    async def exists(self, kind: Kind, namespace: str | None, name: str) -> bool:
        try:
            await self._request("GET", kind.path(namespace, name), accept=_METADATA_ALONE)
        except NotFound:
            return False
        return True

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        each: Callable[[Object], Object] | None = None,
    ) -> Listing:
        query = {"limit": str(_CHUNK), "labelSelector": label_selector, "fieldSelector": field_selector}
        try:
            return await self._list(kind, namespace, query, each)
        except Expired:  # between two chunks: once more, in one piece, which cannot expire
            return await self._list(kind, namespace, query | {"limit": ""}, each)

    async def _list(
        self, kind: Kind, namespace: str | None, query: dict[str, str], each: Callable[[Object], Object] | None
    ) -> Listing:
        items: list[Object] = []
        query = {name: value for name, value in query.items() if value}
        while True:
            answer = await self._request("GET", kind.path(namespace), query)
            for item in answer.get("items") or ():  # a list's items do not say what they are
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
                items.append(each(item) if each else item)
            meta = answer["metadata"]
            if not meta.get("continue"):
                break
            query["continue"] = meta["continue"]
        return Listing(items, meta["resourceVersion"])

    async def create(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        path = kind.path(manifest["metadata"].get("namespace"))
        return await self._request("POST", path, body=manifest, repeatable=False)

    async def replace(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        meta = manifest["metadata"]
        path = kind.path(meta.get("namespace"), meta["name"])
        return await self._request("PUT", path, body=manifest, repeatable=False)

    async def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> Object:
        return await self._apply(kind, manifest, "", FIELD_MANAGER, force=force)

    async def apply_status(self, kind: Kind, manifest: Mapping[str, Any], *, owner: str = FIELD_MANAGER) -> Object:
        return await self._apply(kind, manifest, "status", owner)

    async def _apply(
        self, kind: Kind, manifest: Mapping[str, Any], subresource: str, owner: str, *, force: bool = True
    ) -> Object:
        meta = manifest["metadata"]
        path = kind.path(meta.get("namespace"), meta["name"], subresource)
        query = {"fieldManager": owner, "force": str(force).lower()}
        return await self._request("PATCH", path, query, body=manifest)

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, only: Only, grace_seconds: int | None = None
    ) -> Object:
        preconditions = {"uid": only.uid}
        if only.resource_version is not None:
            preconditions["resourceVersion"] = only.resource_version
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        return await self._request("DELETE", kind.path(namespace, name), body=options)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        repeatable: bool = True,
        accept: str = "application/json",
    ) -> Object:
        attempt = 0
        while True:
            try:
                return await self._once(method, path, query, body, accept)
            except Unauthorized:
                if self._reload is None or attempt:
                    raise
                vars(self._configuration).update(vars(await self._reload()))
                pause = 0.0
            except TooManyRequests as error:
                pause = self._pause(attempt, error)
            except (ServerError, Unreachable) as error:
                if not repeatable:
                    raise
                pause = self._pause(attempt, error)
            attempt += 1
            await asyncio.sleep(pause)

    def _pause(self, attempt: int, error: ApiError) -> float:
        """Seconds before the next attempt; raises the error when it was the last."""
        if attempt + 1 >= self._limits.attempts:
            raise error
        own = self._limits.pauses[min(attempt, len(self._limits.pauses) - 1)]
        # Spread out, so that everyone who was turned away does not come back in one moment.
        pause = max(own, error.retry_after or 0.0) * random.uniform(1.0, 1.2)  # noqa: S311
        if pause > self._limits.longest_pause:
            raise error
        return pause

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        accept: str,
    ) -> Object:
        call = f"{method} {path}"
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {
            "Accept": accept,
            "Content-Type": self._content_types.get(method, "application/json"),
            "User-Agent": FIELD_MANAGER,
        }
        limit = aiohttp.ClientTimeout(total=self._limits.call)
        try:
            response = await self._transport.request(method, url, headers, body, _request_timeout=limit)
            raw = await response.read()
        except TimeoutError:
            raise Unreachable(call, f"no answer within {self._limits.call:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(call, f"{type(error).__name__}: {error}") from error
        if response.status < 400:
            return _parse(call, raw)
        raise _error(call, response.status, response.headers, raw)


def _parse(call: str, raw: bytes) -> Object:
    try:
        answer = json.loads(raw)
    except ValueError as error:
        raise ServerError(call, f"the answer is not JSON: {raw[:80]!r}", status=200) from error
    if not isinstance(answer, dict):
        raise ServerError(call, f"the answer is not an object: {raw[:80]!r}", status=200)
    return answer


def _error(call: str, status: int, headers: Mapping[str, str], raw: bytes) -> ApiError:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    details = answer if isinstance(answer, dict) else {}
    reason = str(details.get("reason") or "")
    kind: type[ApiError] = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    if kind is Conflict and reason == "AlreadyExists":
        kind = AlreadyExists
    try:
        retry_after: float | None = float(headers["Retry-After"])
    except (KeyError, ValueError):
        retry_after = None
    message = str(details.get("message") or raw[:200].decode("utf-8", "replace"))
    return kind(call, message, status=status, reason=reason, retry_after=retry_after)
