"""Images that are unpacked once and serve every node.

A template is the root directory of a containerd that has imported some images. A node's own root gets
links to the template's layers and blobs, which containerd never writes to, and copies of its two small
databases: so a node has gigabytes of images at once and at no cost, and the page cache holds them once.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from local_cluster import cache, commands
from local_cluster.images.oci import Layout
from local_cluster.native.node import TEMPLATES

KIND = "templates"
_SNAPSHOTTER = "io.containerd.snapshotter.v1.overlayfs"
_DATABASES = (f"{_SNAPSHOTTER}/metadata.db", "io.containerd.metadata.v1.bolt/meta.db")
_LINKED = (f"{_SNAPSHOTTER}/snapshots", "io.containerd.content.v1.content/blobs/sha256")

# $1: the templates, $2: the root to fill, $3: its configuration, $4: the archive.
_IMPORT = f"""
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p {TEMPLATES} /run/root
mount --bind "$2" /run/root
mount --bind "$1" {TEMPLATES}
containerd --config "$3" &
daemon=$!
until [ -S /run/containerd/containerd.sock ]; do kill -0 $daemon; sleep 0.05; done
ctr --namespace k8s.io images import "$4"
kill $daemon
wait $daemon || true
"""
_CONFIG = """version = 2
root = "/run/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/containerd/containerd.sock"
"""


def directory() -> Path:
    place = cache.root() / KIND
    place.mkdir(parents=True, exist_ok=True)
    return place


def make(name: str, parent: Path | None, layout: Layout, images: Mapping[str, str]) -> Path:
    """The template `name`: what `parent` has and `images` (name -> manifest digest), made now if it is not there."""

    def build(partial: Path) -> None:
        if parent is not None:
            derive(parent, partial)
        if images:
            _import(partial, layout, images)

    return cache.make(KIND, name, build)


def derive(template: Path, root: Path) -> None:
    """Fills a containerd root with what a template has."""
    for name in _LINKED:
        (root / name).mkdir(parents=True)
        for source in (template / name).iterdir():
            (root / name / source.name).symlink_to(link_target(source, template.name, name))
    for name in _DATABASES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(template / name, root / name)


def link_target(source: Path, template: str, name: str) -> PurePosixPath:
    """Where a node finds an entry of a template: never by way of a second link."""
    if source.is_symlink():
        return PurePosixPath(source.readlink())
    return TEMPLATES / template / name / source.name


def blobs(root: Path) -> set[str]:
    """The digests that a containerd root has."""
    with contextlib.suppress(FileNotFoundError):
        return {entry.name for entry in (root / _LINKED[1]).iterdir()}
    return set()


def discard(names: Iterator[str] | list[str]) -> None:
    for name in names:
        shutil.rmtree(directory() / name, ignore_errors=True)


def _import(root: Path, layout: Layout, images: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="muster-import-", dir=cache.root()) as scratch:
        config, archive = Path(scratch) / "containerd.toml", Path(scratch) / "images.tar"
        config.write_text(_CONFIG)
        layout.pack(images, blobs(root), archive)
        script = ["/bin/sh", "-ec", _IMPORT, "sh", directory(), root, config, archive]
        commands.run(*commands.in_own_world(*script))
    _share_blobs(root, layout)


def _share_blobs(root: Path, layout: Layout) -> None:
    """The import copied each blob: one file is enough where the disk is the same."""
    for blob in (root / _LINKED[1]).iterdir():
        twin = layout.blob(blob.name)
        if twin.exists() and not blob.is_symlink() and twin.stat().st_dev == blob.stat().st_dev:
            partial = blob.with_name(f".{blob.name}")
            os.link(twin, partial)
            partial.rename(blob)
