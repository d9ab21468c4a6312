"""Images as an OCI layout on disk: written, read, and packed into archives that leave out what the receiver has."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from local_cluster.errors import ClusterError

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'


class Layout:
    """A directory in the format of the OCI image layout. Digests are hex, without `sha256:`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def blob(self, digest: str) -> Path:
        return self.directory / "blobs" / "sha256" / digest

    def named(self, reference: str) -> str:
        """The digest of the manifest that the index lists under a reference."""
        index = json.loads((self.directory / "index.json").read_text())
        for entry in index["manifests"]:
            if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == reference:
                return str(entry["digest"]).removeprefix("sha256:")
        raise ClusterError(f"{self.directory} holds no image {reference}")

    def only(self) -> str:
        """The digest of the one manifest in the index."""
        (entry,) = json.loads((self.directory / "index.json").read_text())["manifests"]
        return str(entry["digest"]).removeprefix("sha256:")

    def complete(self, manifest: str) -> bool:
        return self.blob(manifest).exists() and all(self.blob(part).exists() for part in self.parts(manifest))

    def parts(self, manifest: str) -> list[str]:
        """The blobs that a manifest names: configuration and layers."""
        content = json.loads(self.blob(manifest).read_text())
        if content.get("mediaType", _MANIFEST) != _MANIFEST and "layers" not in content:
            raise ClusterError(f"image manifest of type {content['mediaType']}: wanted a single-platform {_MANIFEST}")
        return [str(item["digest"]).removeprefix("sha256:") for item in (content["config"], *content["layers"])]

    def adopt(self, other: "Layout", manifest: str) -> None:
        """Takes an image over from another layout on the same disk or another."""
        self.blob(manifest).parent.mkdir(parents=True, exist_ok=True)
        for digest in (*other.parts(manifest), manifest):
            if not self.blob(digest).exists():
                shutil.move(other.blob(digest), self.blob(digest))

    def write_blob(self, content: bytes) -> dict[str, Any]:
        """Stores a blob; returns its descriptor, without the media type."""
        digest = hashlib.sha256(content).hexdigest()
        place = self.blob(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            partial = place.with_name(f".{digest}")
            partial.write_bytes(content)
            partial.rename(place)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def write_image(self, programs: Mapping[str, Path], entrypoint: list[str], architecture: str) -> str:
        """An image from nothing but some programs, path -> file; returns the manifest's digest."""
        layer = _layer(programs)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        return self.write_manifest(json.dumps(config).encode(), [{"mediaType": LAYER, **self.write_blob(layer)}])

    def write_manifest(self, configuration: bytes, layers: list[dict[str, Any]]) -> str:
        """An image from its configuration and the descriptors of its layers; returns the manifest's digest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **self.write_blob(configuration)},
            "layers": layers,
        }
        return str(self.write_blob(json.dumps(manifest).encode())["digest"]).removeprefix("sha256:")

    def pack(self, images: Mapping[str, str], leave_out: AbstractSet[str], archive: Path) -> None:
        """Writes an archive of images, name -> manifest digest, without the blobs that the receiver has."""
        digests = {digest for manifest in images.values() for digest in (manifest, *self.parts(manifest))}
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "oci-layout", _LAYOUT.encode())
            _add(tar, "index.json", json.dumps(self._index(images)).encode())
            for digest in sorted(digests - leave_out):
                tar.add(self.blob(digest), arcname=f"blobs/sha256/{digest}", recursive=False)

    def keep_only(self, manifests: AbstractSet[str]) -> None:
        """Deletes the blobs that none of the manifests needs."""
        kept = {digest for manifest in manifests if self.complete(manifest) for digest in self.parts(manifest)}
        for blob in (self.directory / "blobs" / "sha256").iterdir():
            if blob.name not in kept | manifests:
                blob.unlink()

    def _index(self, images: Mapping[str, str]) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": _MANIFEST,
                    "digest": f"sha256:{manifest}",
                    "size": self.blob(manifest).stat().st_size,
                    "annotations": {"io.containerd.image.name": name},
                }
                for name, manifest in images.items()
            ],
        }


def _layer(programs: Mapping[str, Path]) -> bytes:
    """An uncompressed layer; the same programs give the same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, source in sorted(programs.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = source.stat().st_size, 0o755
            with source.open("rb") as content:
                tar.addfile(entry, content)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def architecture() -> str:
    """What OCI and Go call the architecture of this machine."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
