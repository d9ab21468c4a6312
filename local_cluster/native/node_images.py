"""Which images the native nodes have: the components' own, the bases', and those this checkout loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from local_cluster import cache, go_builds
from local_cluster.checkout import Checkout
from local_cluster.images import bases, records
from local_cluster.images.oci import Layout, architecture
from local_cluster.images.store import layout
from local_cluster.manifests import DNS_IMAGE
from local_cluster.native import templates
from local_cluster.native.node import PAUSE_IMAGE, Node
from local_cluster.processes import Daemons


def prepare_template(checkout: Checkout) -> Path:
    """The template that this checkout's next node is made from."""
    base = _base_template()
    loaded = _still_there(records.of(checkout).loaded())
    return templates.make(_name(checkout, base, loaded), base, layout(), loaded) if loaded else base


def discard_old_templates(checkout: Checkout, current: Path) -> None:
    """To be called when no node of this checkout exists: nodes link to their template's files."""
    mine = templates.directory().glob(f"{checkout.identity}-*")
    templates.discard([path.name for path in mine if path != current])


def bring(nodes: Iterable[Node], daemons: Daemons, images: Mapping[str, str]) -> None:
    """Imports images into running nodes: only the blobs that a node lacks travel, only new layers are unpacked."""
    archives: dict[frozenset[str], Path] = {}
    with TemporaryDirectory(prefix="muster-load-", dir=cache.root()) as scratch:
        for node in nodes:
            new = {name: digest for name, digest in images.items() if _digest(node, daemons, name) != digest}
            if not new:
                continue
            have = frozenset(templates.blobs(node.directory / "lib" / "containerd"))
            if have not in archives:
                archives[have] = Path(scratch) / f"{len(archives)}.tar"
                layout().pack(new, have, archives[have])
            node.ctr(daemons, "images", "import", archives[have])


def _digest(node: Node, daemons: Daemons, name: str) -> str | None:
    """The digest of the manifest that a node has under a name."""
    for line in node.ctr(daemons, "images", "list", f"name=={name}").splitlines()[1:]:
        return line.split()[2].removeprefix("sha256:")
    return None


def _base_template() -> Path:
    images = {**_own_images(layout()), **bases.on_nodes()}
    key = cache.key(*(f"{name}={digest}" for name, digest in sorted(images.items())))
    return templates.make(f"base-{key}", None, layout(), images)


def _own_images(place: Layout) -> dict[str, str]:
    pause, coredns = go_builds.build(go_builds.PAUSE) / "pause", go_builds.build(go_builds.COREDNS) / "coredns"
    return {
        PAUSE_IMAGE: place.write_image({"/pause": pause}, ["/pause"], architecture()),
        DNS_IMAGE: place.write_image({"/coredns": coredns}, ["/coredns"], architecture()),
    }


def _still_there(loaded: dict[str, str]) -> dict[str, str]:
    """Without those whose blobs somebody has thrown away: they are loaded anew when they are built anew."""
    return {name: digest for name, digest in loaded.items() if layout().complete(digest)}


def _name(checkout: Checkout, base: Path, loaded: dict[str, str]) -> str:
    content = (f"{name}={digest}" for name, digest in sorted(loaded.items()))
    return f"{checkout.identity}-{cache.key(base.name, *content)}"
