"""The programs that build and run images: Docker, Podman, or buildah where neither runs."""

import contextlib
import json
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from local_cluster import cache, commands
from local_cluster.errors import ClusterError, CommandFailedError
from local_cluster.images import buildah_storage
from local_cluster.images.oci import Layout

_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Recipe:
    """How an image is built."""

    context: Path
    dockerfile: Path
    arguments: Mapping[str, str]


class Engine(Protocol):
    name: str

    def build(self, tag: str, recipe: Recipe) -> str:
        """Builds, tags, returns the image's id."""

    def find(self, reference: str) -> str | None:
        """The id of an image by its tag or id; None when it is not there."""

    def export(self, image: str, layout: Layout) -> str:
        """Adds an image to a layout; returns the digest of its manifest."""

    def run(self, image: str, words: Sequence[str], mount: Path, environment: Mapping[str, str]) -> int:
        """Runs a command in an image, `mount` mounted at its own path; returns the exit status."""


class ContainerEngine:
    """Docker or Podman."""

    def __init__(self, name: str) -> None:
        self.name = name

    def works(self) -> bool:
        if commands.find(self.name) is None:
            return False
        try:
            commands.run(self.name, "info")
        except CommandFailedError:  # Docker's client is there, its daemon is not
            return False
        return True

    def build(self, tag: str, recipe: Recipe) -> str:
        arguments = [f"--build-arg={name}={value}" for name, value in recipe.arguments.items()]
        command = [self.name, "build", "--tag", tag, "--file", recipe.dockerfile, *arguments, recipe.context]
        commands.run(*command)
        image = self.find(tag)
        if image is None:
            raise ClusterError(f"{self.name} built {tag} but does not have it")
        return image

    def find(self, reference: str) -> str | None:
        try:
            found = commands.run(self.name, "image", "inspect", "--format", "{{.Id}}", reference)
        except CommandFailedError:
            return None
        return found.strip().removeprefix("sha256:")

    def export(self, image: str, layout: Layout) -> str:
        with tempfile.TemporaryDirectory(prefix="muster-export-", dir=cache.root()) as scratch:
            archive, unpacked = Path(scratch) / "image.tar", Path(scratch) / "layout"
            format_ = ["--format", "oci-archive"] if self.name == "podman" else []
            commands.run(self.name, "save", *format_, "--output", archive, image)
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            if not (unpacked / "index.json").exists():
                raise ClusterError("`docker save` wrote no OCI layout: Docker 25 or newer is needed")
            manifest = Layout(unpacked).only()
            layout.adopt(Layout(unpacked), manifest)
            return manifest

    def run(self, image: str, words: Sequence[str], mount: Path, environment: Mapping[str, str]) -> int:
        settings = [f"--env={name}={value}" for name, value in environment.items()]
        place = [f"--volume={mount}:{mount}", f"--workdir={mount}", "--network=host", "--entrypoint="]
        command = [self.name, "run", "--rm", "--init", *place, *settings, image, *words]
        return commands.run_in_foreground(command)


class Buildah:
    """buildah as root, with a storage of its own in the cache."""

    name = "buildah"

    def build(self, tag: str, recipe: Recipe) -> str:
        arguments = [f"--build-arg={name}={value}" for name, value in recipe.arguments.items()]
        with tempfile.TemporaryDirectory(prefix="muster-build-", dir=cache.root()) as scratch:
            written = Path(scratch) / "id"
            fixed = ["--layers", "--network", "host", "--pull-never", "--iidfile", written, *_volumes()]
            self._run("bud", *fixed, "--tag", tag, "--file", recipe.dockerfile, *arguments, recipe.context)
            return written.read_text().strip().removeprefix("sha256:")

    def add_rootfs(self, tag: str, rootfs: Path) -> str:
        """An image of one layer from a tar archive."""
        with tempfile.TemporaryDirectory(prefix="muster-build-", dir=cache.root()) as scratch:
            dockerfile = Path(scratch) / "Dockerfile"
            dockerfile.write_text(f'FROM scratch\nADD {rootfs.name} /\nCMD ["/bin/bash"]\n')
            return self.build(tag, Recipe(rootfs.parent, dockerfile, {}))

    def find(self, reference: str) -> str | None:
        try:
            found = json.loads(self._run("inspect", "--type", "image", reference))
        except CommandFailedError:
            return None
        return str(found["FromImageID"])

    def export(self, image: str, layout: Layout) -> str:
        # `buildah push` would pack and compress every layer anew, half a minute for a base that is there already.
        return buildah_storage.export(self._storage, image, layout)

    def run(self, image: str, words: Sequence[str], mount: Path, environment: Mapping[str, str]) -> int:
        self._remove_stale_containers()
        container = self._run("from", "--pull-never", "--name", f"muster-run-{os.getpid()}", image).strip()
        try:
            settings = [f"--env={name}={value}" for name, value in environment.items()]
            place = [f"--volume={mount}:{mount}", f"--workingdir={mount}", "--user=0"]
            command = self._command("run", "--network", "host", *place, *settings, container, "--", *words)
            return commands.run_in_foreground(command, env=_ENVIRONMENT)
        finally:
            self._run("rm", container)

    def remove(self, image: str) -> None:
        """Removes an image that was replaced, with the layers that no other image has."""
        with contextlib.suppress(CommandFailedError):  # a container of a command at work may hold it
            self._run("rmi", image)

    def _remove_stale_containers(self) -> None:
        """Those of commands that were killed."""
        listed = self._run("containers", "--format", "{{.ContainerName}}").split()
        for name in listed:
            pid = name.removeprefix("muster-run-")
            if pid != name and not Path(f"/proc/{pid}").exists():
                self._run("rm", name)

    def _run(self, *words: object) -> str:
        return commands.run(*self._command(*words), env=_ENVIRONMENT)

    @property
    def _storage(self) -> Path:
        return cache.root() / "images" / "storage"

    def _command(self, *words: object) -> list[str]:
        where = ["--root", self._storage, "--runroot", cache.root() / "images" / "run"]
        command = ["buildah", *where, "--storage-driver", "overlay", *words]
        return commands.in_own_world("/bin/sh", "-ec", _HIDE_CONTAINERS, "sh", cache.root(), *command)


# It writes to /var/lib/containers too, whatever its root.
_HIDE_CONTAINERS = """
case $1 in /var/lib/*) ;; *) mount -t tmpfs tmpfs /var/lib ;; esac
shift
exec "$@"
"""
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}


def _volumes() -> list[str]:
    """What `pip` needs in a build on a machine with an authority or an index of its own."""
    sources = {_CA_BUNDLE: _CA_BUNDLE}
    for config in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        if config.exists():
            sources[config] = Path("/etc/pip.conf")
    return [f"--volume={source}:{target}:ro" for source, target in sources.items() if source.exists()]


def choose() -> Engine:
    """Docker or Podman when one of them runs, else buildah when we are root."""
    for name in ("docker", "podman"):
        engine = ContainerEngine(name)
        if engine.works():
            return engine
    if os.geteuid() != 0:
        raise ClusterError("no image can be built: start Docker or Podman, or run as root to use buildah")
    return Buildah()
