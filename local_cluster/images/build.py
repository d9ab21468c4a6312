"""Builds an image when what goes into it has changed, and takes images to the cluster."""

import fnmatch
from collections.abc import Iterator
from pathlib import Path

from local_cluster import cache, packages
from local_cluster.checkout import Checkout
from local_cluster.errors import ClusterError
from local_cluster.images import bases, records
from local_cluster.images.engines import Buildah, Recipe, choose
from local_cluster.images.store import layout

_NEVER = ("__pycache__", "*.pyc", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", "*.egg-info")


def build(checkout: Checkout, tag: str, recipe: Recipe, base: str | None) -> bool:
    """Builds `tag`; False when the last build had the same inputs and is still there."""
    engine = choose()
    if isinstance(engine, Buildah):
        packages.ensure(packages.FOR_IMAGES)
    with cache.lock("images"):
        arguments = dict(recipe.arguments)
        if base is not None:
            arguments["BASE"] = bases.image(base, engine)
        bases.slim(engine)
        complete = Recipe(recipe.context, recipe.dockerfile, arguments)
        inputs = fingerprint(complete, engine.name)
        known = records.of(checkout).built(tag)
        if known and known["inputs"] == inputs and engine.find(known["image"]):
            return False
        records.of(checkout).remember_built(tag, inputs, engine.build(tag, complete))
    return True


def export(checkout: Checkout, tag: str) -> str:
    """Brings an image into the layout; returns the digest of its manifest.

    What this checkout built under the tag goes before what another one may have tagged since.
    """
    engine = choose()
    with cache.lock("images"):
        known = records.of(checkout).built(tag)
        image = engine.find(known["image"]) if known else None
        image = image or engine.find(tag)
        if image is None:
            raise ClusterError(f"{engine.name} has no image {tag}: build it with `build-image {tag} CONTEXT`")
        return engine.export(image, layout())


def run(checkout: Checkout, tag: str, words: list[str], environment: dict[str, str]) -> int:
    """Runs a command in an image with the checkout mounted at its own path."""
    engine = choose()
    known = records.of(checkout).built(tag)
    image = engine.find(known["image"] if known else tag)
    if image is None:
        raise ClusterError(f"{engine.name} has no image {tag}: build it with `build-image {tag} CONTEXT`")
    return engine.run(image, words, checkout.root, environment)


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
    return sorted(_walk(context, context, (*_NEVER, *_ignored(context))))


def _walk(context: Path, directory: Path, ignored: tuple[str, ...]) -> Iterator[Path]:
    for path in directory.iterdir():
        inside = path.relative_to(context).as_posix()
        if any(fnmatch.fnmatch(inside, pattern) or fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(context, path, ignored)
        else:
            yield path


def _ignored(context: Path) -> list[str]:
    file = context / ".dockerignore"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.strip().strip("/").removeprefix("**/") for line in lines if line.strip() and line[0] not in "#!"]
