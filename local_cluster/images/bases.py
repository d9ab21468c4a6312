"""The bases that images are built on where there is no registry to pull one from, and those that tests add to.

`debian:forky-slim` is made of Debian's packages by mmdebstrap when buildah is the engine; Docker and Podman
pull it. The others are it and more packages, so that a Dockerfile's own `apt-get install` finds its work done.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from local_cluster import cache, commands, packages
from local_cluster.errors import ClusterError
from local_cluster.images.engines import Buildah, Engine, Recipe, choose
from local_cluster.images.store import layout

SUITE = "forky"
SLIM = "docker.io/library/debian:forky-slim"
_MIRROR_LISTS = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources")


@dataclass(frozen=True)
class Base:
    """`packages` on top of `parent` (None: on the slim Debian)."""

    name: str
    parent: "Base | None"
    packages: tuple[str, ...]
    seconds: float
    wheels: tuple[str, ...] = ()
    """Of what Debian does not have; what they depend on is among the packages."""

    @property
    def tag(self) -> str:
        return f"localhost/muster-base-{self.name}:{cache.key(self.dockerfile)}"

    @property
    def dockerfile(self) -> str:
        parent = self.parent.tag if self.parent else SLIM
        pip = "python3 -m pip install -q --no-cache-dir --no-deps --break-system-packages --root-user-action=ignore"
        return (
            f"FROM {parent}\nUSER root\n"
            "RUN apt-get update"
            f" && apt-get install -y --no-install-recommends {' '.join(self.packages)}"
            " && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin\n"
        ) + (f"RUN {pip} {' '.join(self.wheels)}\n" if self.wheels else "")


PYTHON = Base("python", None, ("ca-certificates", "python3", "python3-pip", "python3-venv", "tini"), 40)
TORCH = Base(
    "torch",
    PYTHON,
    (
        "python3-aiohttp",
        "python3-fsspec",
        "python3-s3fs",
        "libopenblas0-pthread",  # without it, the reference BLAS is 20 to 40 times slower
        "python3-grpcio",
        "python3-httptools",
        "python3-numpy",
        "python3-orjson",
        "python3-prometheus-client",
        "python3-protobuf",
        "python3-safetensors",
        "python3-sklearn",
        "python3-torch",
        "python3-uvicorn",
        "python3-uvloop",
    ),
    150,
)
TORCH_TEST = Base(
    "torch-test",
    TORCH,
    (
        "python3-flask-cors",
        "python3-geventhttpclient",
        "python3-hypothesis",
        "python3-moto",
        "python3-pytest",
        "python3-rapidjson",
        "python3-urllib3",
    ),
    40,
    wheels=("tritonclient==2.42.0",),
)
BASES = {base.name: base for base in (PYTHON, TORCH, TORCH_TEST)}
_SLIM_SECONDS = 60


def image(name: str, engine: Engine) -> str:
    """The tag of a base, built now if the engine does not have it."""
    if name not in BASES:
        raise ClusterError(f"base {name}: wanted one of {', '.join(BASES)}")
    return _built(BASES[name], engine)


def slim(engine: Engine) -> None:
    """Makes sure that `FROM debian:forky-slim` works: Docker and Podman pull it themselves."""
    if isinstance(engine, Buildah) and engine.find(SLIM) is None:
        packages.ensure(packages.FOR_IMAGES)
        _debootstrap(engine)


def prepare() -> None:
    """Builds the bases that the nodes get before any image on them is loaded."""
    packages.ensure(packages.FOR_IMAGES)
    engine = choose()
    for base in _ON_NODES:
        _built(base, engine)


def seconds_to_prepare() -> float:
    """What is left of it, in seconds, guessed without asking anybody."""
    missing = [base for base in _ON_NODES if not _record(base).exists()]
    return sum(base.seconds for base in missing) + (_SLIM_SECONDS if len(missing) == len(_ON_NODES) else 0)


def on_nodes() -> dict[str, str]:
    """Tag -> digest of the manifest in the layout, of the bases that nodes have from the start."""
    return {base.tag: _record(base).read_text() for base in _ON_NODES}


_ON_NODES = (PYTHON, TORCH)


def _built(base: Base, engine: Engine) -> str:
    if _record(base).exists() and layout().complete(_record(base).read_text()) and engine.find(base.tag):
        return base.tag
    if base.parent is None:
        slim(engine)
    else:
        _built(base.parent, engine)
    with tempfile.TemporaryDirectory(prefix="muster-base-") as empty:
        dockerfile = Path(empty) / "Dockerfile"
        dockerfile.write_text(base.dockerfile)
        built = engine.build(base.tag, Recipe(Path(empty), dockerfile, {}))
    manifest = engine.export(built, layout())
    _record(base).parent.mkdir(parents=True, exist_ok=True)
    _record(base).write_text(manifest)
    return base.tag


def _record(base: Base) -> Path:
    return cache.root() / "images" / "bases" / base.tag.replace("/", "_").replace(":", "_")


def _debootstrap(engine: Buildah) -> None:
    with tempfile.TemporaryDirectory(prefix="muster-debian-", dir=cache.root()) as scratch:
        rootfs = Path(scratch) / "rootfs.tar"
        command = [
            "mmdebstrap",
            "--variant=minbase",
            # Builds mount this machine's bundle over its own: by then it must be configured.
            "--include=ca-certificates",
            # A snapshot of Debian, or a mirror that lags, is past its date: the signature is what counts.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            # apt inside of a build has no user to step down to.
            '--setup-hook=mkdir -p "$1/etc/apt/apt.conf.d"',
            f"--setup-hook=printf '%s' '{_APT_IN_BUILDS}' > \"$1/etc/apt/apt.conf.d/90build\"",
            SUITE,
            str(rootfs),
            mirror(_apt_sources()),
        ]
        commands.run(*commands.in_own_world(*command))
        engine.add_rootfs(SLIM, rootfs)


_APT_IN_BUILDS = 'Acquire::Check-Valid-Until "false"; APT::Sandbox::User "root";'


def _apt_sources() -> str:
    files = [path for pattern in _MIRROR_LISTS for path in sorted(Path("/").glob(pattern.lstrip("/")))]
    return "\n".join(path.read_text() for path in files)


def mirror(sources: str) -> str:
    """Where this machine gets Debian from, out of its apt sources in either format."""
    found: list[str] = re.findall(r"^(?:deb\s+(?:\[[^\]]*\]\s+)?|URIs:\s*)(https?://\S+)", sources, re.MULTILINE)
    for address in found:
        if re.search(r"/debian/?$", address):
            return address.rstrip("/")
    raise ClusterError(
        "no Debian mirror in /etc/apt/sources.list or /etc/apt/sources.list.d: "
        "the native provider makes its images from Debian packages and needs one ending in /debian"
    )
