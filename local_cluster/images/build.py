"""Builds an image when what goes into it has changed, and takes images to the cluster."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_cluster import cache, packages
from local_cluster.checkout import Checkout
from local_cluster.errors import ClusterError
from local_cluster.images import bases, records
from local_cluster.images.engines import Buildah, Engine, Recipe, choose
from local_cluster.images.store import layout

# Left behind by tools, never part of what an image is built for.
_NEVER = {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def build(checkout: Checkout, tag: str, recipe: Recipe, base: str | None) -> bool:
    """Builds `tag`; False when the last build had the same inputs and is still there.

    `base`: a prepared one by its name, or an image by its tag, that this checkout has built.
    """
    engine = choose()
    if isinstance(engine, Buildah):
        packages.ensure(packages.FOR_IMAGES)
    with cache.lock("images"):
        arguments = dict(recipe.arguments)
        if base is not None:
            arguments["BASE"] = bases.image(base, engine) if base in bases.BASES else _own_base(checkout, base, engine)
        bases.slim(engine)
        complete = Recipe(recipe.context, recipe.dockerfile, arguments)
        inputs = fingerprint(complete, engine.name)
        known = records.of(checkout).built(tag)
        if known and known["inputs"] == inputs and engine.find(known["image"]):
            return False
        records.of(checkout).remember_built(tag, inputs, engine.build(tag, complete))
        if isinstance(engine, Buildah) and known and known["image"] not in records.everything_built():
            engine.remove(known["image"])
    return True


def export(checkout: Checkout, tag: str) -> str:
    """Brings an image into the layout; returns the digest of its manifest. The caller holds the images' lock."""
    engine = choose()
    return engine.export(_find(checkout, tag, engine), layout())


def run(checkout: Checkout, tag: str, words: list[str], environment: dict[str, str]) -> int:
    """Runs a command in an image with the checkout mounted at its own path."""
    engine = choose()
    return engine.run(_find(checkout, tag, engine), words, checkout.root, environment)


def _find(checkout: Checkout, tag: str, engine: Engine) -> str:
    """The id of an image. What this checkout built under the tag goes before what another tagged so since."""
    known = records.of(checkout).built(tag)
    image = (engine.find(known["image"]) if known else None) or engine.find(tag)
    if image is None:
        raise ClusterError(f"{engine.name} has no image {tag}: build it with `build-image {tag} CONTEXT`")
    return image


def _own_base(checkout: Checkout, tag: str, engine: Engine) -> str:
    """By its id: the tag stays the same when the image is built anew. Docker takes an id only if it is shortened."""
    return _find(checkout, tag, engine)[:12]


def fingerprint(recipe: Recipe, engine: str) -> str:
    """A hash of all that goes into an image."""
    arguments = [f"{name}={value}" for name, value in sorted(recipe.arguments.items())]
    parts: list[str | bytes] = [engine, recipe.dockerfile.read_bytes(), *arguments]
    for path in context_files(recipe.context):
        content = bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        parts += [str(path.relative_to(recipe.context)), str(path.lstat().st_mode & 0o111), content]
    return cache.key(*parts)


def context_files(context: Path) -> list[Path]:
    """The files of a build's context, those that .dockerignore and common sense leave out aside."""
    file = context / ".dockerignore"
    rules = Rules.parse(file.read_text() if file.exists() else "")
    return sorted(_walk(context, context, rules))


@dataclass(frozen=True)
class Rules:
    """The lines of a .dockerignore: (pattern, whether it leaves out or takes back in); the last that fits counts."""

    lines: tuple[tuple[re.Pattern[str], bool], ...]

    @classmethod
    def parse(cls, text: str) -> "Rules":
        wanted = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        return cls(tuple((_expression(line.removeprefix("!")), not line.startswith("!")) for line in wanted))

    def leave_out(self, path: str) -> bool:
        """`path` is relative to the context. A pattern also fits all that is below what it fits."""
        parts = path.split("/")
        ways = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        verdicts = [out for pattern, out in self.lines if any(pattern.fullmatch(way) for way in ways)]
        return bool(verdicts and verdicts[-1])


_GLOBS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _expression(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    return re.compile("".join(_GLOBS.get(piece) or re.escape(piece) for piece in pieces))


def _walk(context: Path, directory: Path, rules: Rules) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name in _NEVER:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(context, path, rules)
        elif not rules.leave_out(path.relative_to(context).as_posix()):
            yield path
