"""Debian packages that the cluster needs: installed when we are root, otherwise the person is told what to type."""

import os
from collections.abc import Iterable, Mapping

from local_cluster import commands
from local_cluster.errors import ClusterError

# program -> the package that brings it
FOR_NODES: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "nsenter": "util-linux",
    "openssl": "openssl",
}
FOR_IMAGES: Mapping[str, str] = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


def missing(needed: Mapping[str, str]) -> list[str]:
    """The packages whose programs are not there."""
    return sorted({package for program, package in needed.items() if commands.find(program) is None})


def ensure(*needed: Mapping[str, str]) -> None:
    install({package for group in needed for package in missing(group)})


def install(packages: Iterable[str]) -> None:
    wanted = sorted(packages)
    if not wanted:
        return
    if os.geteuid() != 0 or commands.find("apt-get") is None:
        raise ClusterError(
            "programs are missing; as root, type:\n"
            f"  apt-get update && apt-get install -y --no-install-recommends {' '.join(wanted)}"
        )
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    commands.run("apt-get", "update", env=quiet)
    commands.run("apt-get", "install", "-y", "--no-install-recommends", *wanted, env=quiet)
