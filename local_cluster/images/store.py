"""The layout in the cache that holds the blobs of all images made on this machine."""

from local_cluster import cache
from local_cluster.images.oci import Layout


def layout() -> Layout:
    return Layout(cache.root() / "images" / "layout")
