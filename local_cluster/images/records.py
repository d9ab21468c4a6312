"""What this checkout has built and wants on its nodes, remembered from one cluster to the next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import cache
from local_cluster.checkout import Checkout, read_json, write_json


@dataclass(frozen=True)
class ImageRecords:
    """Two files under the cache, by the checkout's identity: another checkout's tags are not ours."""

    directory: Path

    def loaded(self) -> dict[str, str]:
        """Image name -> digest of its manifest in the cache's layout: what a new node gets."""
        return read_json(self.directory / "loaded.json") or {}

    def remember_loaded(self, name: str, manifest: str) -> None:
        write_json(self.directory / "loaded.json", {**self.loaded(), name: manifest})

    def built(self, name: str) -> dict[str, Any] | None:
        """`inputs` (hash) and `image` (the engine's id) of the last build of that name."""
        return (read_json(self.directory / "built.json") or {}).get(name)

    def remember_built(self, name: str, inputs: str, image: str) -> None:
        known = read_json(self.directory / "built.json") or {}
        write_json(self.directory / "built.json", {**known, name: {"inputs": inputs, "image": image}})


def of(checkout: Checkout) -> ImageRecords:
    return ImageRecords(cache.root() / "checkouts" / checkout.identity)


def everything_built() -> set[str]:
    """The ids of the images that some checkout of this user has built last under some tag."""
    files = (cache.root() / "checkouts").glob("*/built.json")
    return {build["image"] for file in files for build in (read_json(file) or {}).values()}


def everything_loaded() -> set[str]:
    """The manifests that any checkout of this user wants on its nodes."""
    directories = (cache.root() / "checkouts").glob("*")
    return {digest for directory in directories for digest in ImageRecords(directory).loaded().values()}
