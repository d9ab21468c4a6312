"""Certificates of a cluster: one authority, one certificate for each component, made by the openssl program."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from local_cluster import commands
from local_cluster.checkout import write_atomically

_DAYS = "365"
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]


@dataclass(frozen=True)
class Identity:
    """Who a certificate speaks for: common name is the user, organisation the group."""

    file: str
    user: str
    group: str
    names: tuple[str, ...] = ()  # subjectAltName entries, for servers


ADMIN = Identity("admin", "admin", "system:masters")
CONTROLLER_MANAGER = Identity(
    "controller-manager", "system:kube-controller-manager", "system:kube-controller-manager", ("DNS:localhost",)
)
SCHEDULER = Identity("scheduler", "system:kube-scheduler", "system:kube-scheduler", ("DNS:localhost",))
PROXY = Identity("kube-proxy", "system:kube-proxy", "system:node-proxier")
FRONT_PROXY = Identity("front-proxy", "front-proxy-client", "local-cluster:front-proxy")
STAND_INS = Identity("stand-ins", "local-cluster:stand-ins", "system:masters")
SIMULATOR = Identity("simulator", "local-cluster:simulator", "system:masters")


def api_server(addresses: list[str]) -> Identity:
    dns = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    names = (*(f"IP:{address}" for address in addresses), *(f"DNS:{name}" for name in dns))
    return Identity("apiserver", "kube-apiserver", "kubernetes", names)


def node(name: str, address: str) -> Identity:
    return Identity(name, f"system:node:{name}", "system:nodes", (f"IP:{address}", f"DNS:{name}"))


class Authority:
    """The files of the cluster's certificate authority and of all that it signed, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    def create(self) -> None:
        self.directory.mkdir(parents=True, mode=0o700)
        subject = ["-subj", "/CN=local-cluster", "-days", _DAYS]
        out = ["-keyout", self.directory / "ca.key", "-out", self.certificate]
        commands.run("openssl", "req", "-x509", *_NEW_KEY, *subject, *out)
        key, public = self.directory / "service-accounts.key", self.directory / "service-accounts.pub"
        commands.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", key)
        commands.run("openssl", "pkey", "-in", key, "-pubout", "-out", public)

    def issue(self, identity: Identity) -> None:
        certificate, key = self.files(identity)
        extensions = ["-addext", "basicConstraints=critical,CA:FALSE"]
        extensions += ["-addext", "extendedKeyUsage=serverAuth,clientAuth"]
        if identity.names:
            extensions += ["-addext", f"subjectAltName={','.join(identity.names)}"]
        authority = ["-CA", self.certificate, "-CAkey", self.directory / "ca.key", "-days", _DAYS]
        subject = ["-subj", f"/O={identity.group}/CN={identity.user}"]
        out = ["-keyout", key, "-out", certificate]
        commands.run("openssl", "req", "-x509", *_NEW_KEY, *authority, *subject, *extensions, *out)

    def files(self, identity: Identity) -> tuple[Path, Path]:
        """(certificate, key)"""
        return self.directory / f"{identity.file}.crt", self.directory / f"{identity.file}.key"

    def write_kubeconfig(self, identity: Identity, server: str, path: Path) -> None:
        certificate, key = self.files(identity)
        text = kubeconfig(server, self.certificate.read_bytes(), certificate.read_bytes(), key.read_bytes())
        write_atomically(path, text, mode=0o600)


def kubeconfig(server: str, authority: bytes, certificate: bytes, key: bytes) -> str:
    """A kubeconfig that needs no other file (JSON is YAML)."""
    name = "muster-local"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _b64(authority)}}],
            "users": [
                {"name": name, "user": {"client-certificate-data": _b64(certificate), "client-key-data": _b64(key)}}
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        },
        indent=1,
    )


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
