"""Reads images out of buildah's storage as they are: a layer's tar is put together again from its files.

For each layer the storage keeps the files and, in `ID.tar-split.gz`, all of the tar that is not a file's
content. So the very bytes come out that the layer's digest is of, and layers that the layout has are not read.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_cluster.errors import ClusterError
from local_cluster.images.oci import LAYER, Layout

_BYTES, _FILE = 2, 1  # the kinds of lines in a tar-split
_CHUNK = 1 << 20


def export(storage: Path, image: str, layout: Layout) -> str:
    """Adds an image, by its id, to a layout; returns the digest of its manifest."""
    layers = _read(storage / "overlay-layers" / "layers.json")
    images = _read(storage / "overlay-images" / "images.json")
    top = next((found.get("layer") for found in images if found["id"] == image), None)
    descriptors = []
    for layer in _chain(layers, top):
        digest = str(layer["diff-digest"]).removeprefix("sha256:")
        if not layout.blob(digest).exists():
            _write_layer(storage, layer["id"], layout.blob(digest))
        size = layout.blob(digest).stat().st_size
        descriptors.append({"mediaType": LAYER, "digest": f"sha256:{digest}", "size": size})
    name = "=" + base64.b64encode(f"sha256:{image}".encode()).decode()
    configuration = (storage / "overlay-images" / image / name).read_bytes()
    return layout.write_manifest(configuration, descriptors)


def _chain(layers: list[dict[str, Any]], top: str | None) -> list[dict[str, Any]]:
    """The layers of an image, the lowest first."""
    by_id = {layer["id"]: layer for layer in layers}
    found = []
    while top:
        found.append(by_id[top])
        top = by_id[top].get("parent")
    return found[::-1]


def _write_layer(storage: Path, layer: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}")
    digest = hashlib.sha256()
    with partial.open("wb") as out:
        for piece in _tar(storage / "overlay-layers" / f"{layer}.tar-split.gz", storage / "overlay" / layer / "diff"):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != place.name:
        partial.unlink()
        raise ClusterError(f"layer {layer} in {storage} is damaged: remove that directory and build the image again")
    partial.rename(place)


def _tar(split: Path, files: Path) -> Iterator[bytes]:
    with gzip.open(split) as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["type"] == _BYTES:
                yield base64.b64decode(entry["payload"])
            elif entry["type"] == _FILE and entry.get("size"):
                with (files / entry["name"]).open("rb") as content:
                    while piece := content.read(_CHUNK):
                        yield piece


def _read(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return content
