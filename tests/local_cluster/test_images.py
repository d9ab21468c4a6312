"""Images: what goes into one, how they are laid down, what travels to a node."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import PurePosixPath

import pytest

from local_cluster.checkout import Checkout
from local_cluster.errors import ClusterError
from local_cluster.images import bases, build, buildah_storage
from local_cluster.images.build import Rules, context_files, fingerprint
from local_cluster.images.engines import Recipe
from local_cluster.images.oci import Layout
from local_cluster.native import templates


@pytest.mark.parametrize(
    ("rules", "path", "left_out"),
    [
        ("build\n", "build/deep/x", True),
        ("build\n", "src/build/x", False),
        ("**/build\n", "src/build/x", True),
        ("*.md\n", "README.md", True),
        ("*.md\n", "docs/README.md", False),
        ("*\n!operator\n", "operator/muster/a.py", False),
        ("*\n!operator\n", "tests/a.py", True),
        ("*\n!operator\n**/*.txt\n", "operator/a.txt", True),
        ("# build\n\n", "build", False),
    ],
)
def test_dockerignore_is_understood_as_docker_does(rules, path, left_out):
    assert Rules.parse(rules).leave_out(path) is left_out


class Engine:
    """Builds nothing, and knows what it was to build."""

    name = "fake"

    def __init__(self):
        self.images, self.bases = {}, []

    def build(self, tag, recipe):
        self.bases.append(recipe.arguments.get("BASE"))
        image = f"{len(self.bases):x}" * 64
        self.images |= {tag: image, image: image}
        return image

    def find(self, reference):
        return self.images.get(reference)


def test_an_image_is_built_anew_once_the_one_is_that_it_is_based_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine, checkout = Engine(), Checkout(tmp_path)
    monkeypatch.setattr(build, "choose", lambda: engine)
    (tmp_path / "below").mkdir()
    below, above = a_context(tmp_path / "below"), Recipe(tmp_path / "above", tmp_path / "below" / "Dockerfile", {})
    above.context.mkdir()
    made = []
    for content in ("a", "a", "b"):
        (below.context / "src" / "a.py").write_text(content)
        made.append([build.build(checkout, "below", below, None), build.build(checkout, "above", above, "below")])
    assert made == [[True, True], [False, False], [True, True]]
    assert [engine.bases[number] for number in (1, 3)] == ["1" * 12, "3" * 12]
    with pytest.raises(ClusterError, match="fake has no image other: build it"):
        build.build(checkout, "above", above, "other")


def a_context(tmp_path) -> Recipe:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "src" / "__pycache__").mkdir()
    (tmp_path / "src" / "__pycache__" / "a.pyc").write_text("x")
    return Recipe(tmp_path, tmp_path / "Dockerfile", {"BASE": "x"})


def test_caches_of_tools_are_no_part_of_a_context(tmp_path):
    recipe = a_context(tmp_path)
    assert [path.name for path in context_files(recipe.context)] == ["Dockerfile", "a.py"]


def test_a_fingerprint_changes_with_files_modes_names_arguments_and_engine(tmp_path):
    recipe = a_context(tmp_path)
    source = tmp_path / "src" / "a.py"
    seen = [fingerprint(recipe, "buildah"), fingerprint(recipe, "docker")]
    seen.append(fingerprint(Recipe(recipe.context, recipe.dockerfile, {"BASE": "y"}), "buildah"))
    source.chmod(0o755)
    seen.append(fingerprint(recipe, "buildah"))
    source.write_text("b")
    seen.append(fingerprint(recipe, "buildah"))
    source.rename(tmp_path / "src" / "b.py")
    seen.append(fingerprint(recipe, "buildah"))
    assert len(set(seen)) == 6
    assert fingerprint(recipe, "buildah") == seen[-1]


def an_image(tmp_path) -> tuple[Layout, str]:
    layout = Layout(tmp_path / "layout")
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    return layout, layout.write_image({"/pause": program}, ["/pause"], "amd64")


def test_an_image_from_a_program_is_complete_and_the_same_each_time(tmp_path):
    layout, manifest = an_image(tmp_path)
    assert layout.complete(manifest)
    assert an_image(tmp_path)[1] == manifest
    configuration, layer = layout.parts(manifest)
    assert json.loads(layout.blob(configuration).read_text())["rootfs"]["diff_ids"] == [f"sha256:{layer}"]
    with tarfile.open(layout.blob(layer)) as tar:
        assert tar.getmember("pause").mode == 0o755


def test_an_archive_leaves_out_what_the_receiver_has(tmp_path):
    layout, manifest = an_image(tmp_path)
    configuration, layer = layout.parts(manifest)
    layout.pack({"localhost/pause:1": manifest}, {layer}, tmp_path / "thin.tar")
    with tarfile.open(tmp_path / "thin.tar") as tar:
        blobs = {name.rpartition("/")[2] for name in tar.getnames() if name.startswith("blobs/")}
        index = json.load(tar.extractfile("index.json"))
    assert blobs == {manifest, configuration}
    assert index["manifests"][0]["annotations"] == {"io.containerd.image.name": "localhost/pause:1"}


def test_blobs_that_no_image_needs_are_thrown_away(tmp_path):
    layout, manifest = an_image(tmp_path)
    layout.write_blob(b"of an older image")
    layout.keep_only({manifest})
    assert layout.complete(manifest)
    assert len(list((layout.directory / "blobs" / "sha256").iterdir())) == 3


def a_storage(tmp_path, content: bytes):
    """Buildah's storage with an image of one layer with one file of that content."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("dir/file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    raw = tar.getvalue()
    header, rest = raw[:512], raw[512 + len(content) :]
    lines = [
        {"type": 2, "payload": base64.b64encode(header).decode()},
        {"type": 1, "name": "dir/file", "size": len(content), "payload": "checksum"},
        {"type": 2, "payload": base64.b64encode(rest).decode()},
    ]
    storage, image = tmp_path / "storage", "f" * 64
    layers, images = storage / "overlay-layers", storage / "overlay-images"
    (storage / "overlay" / "top" / "diff" / "dir").mkdir(parents=True)
    (storage / "overlay" / "top" / "diff" / "dir" / "file").write_bytes(content)
    layers.mkdir()
    (images / image).mkdir(parents=True)
    with gzip.open(layers / "top.tar-split.gz", "wt") as split:
        split.writelines(json.dumps(line) + "\n" for line in lines)
    digest = hashlib.sha256(raw).hexdigest()
    (layers / "layers.json").write_text(json.dumps([{"id": "top", "diff-digest": f"sha256:{digest}"}]))
    (images / "images.json").write_text(json.dumps([{"id": image, "layer": "top"}]))
    name = "=" + base64.b64encode(f"sha256:{image}".encode()).decode()
    (images / image / name).write_text("{}")
    return storage, image, digest, raw


def test_a_layer_comes_out_of_buildahs_storage_byte_for_byte(tmp_path):
    storage, image, digest, raw = a_storage(tmp_path, b"content of a file")
    layout = Layout(tmp_path / "layout")
    manifest = buildah_storage.export(storage, image, layout)
    assert layout.complete(manifest)
    assert layout.blob(digest).read_bytes() == raw


def test_a_damaged_layer_is_not_taken(tmp_path):
    storage, image, digest, _raw = a_storage(tmp_path, b"content of a file")
    (storage / "overlay" / "top" / "diff" / "dir" / "file").write_bytes(b"something else!!!")
    layout = Layout(tmp_path / "layout")
    with pytest.raises(ClusterError, match=r"layer top .* is damaged"):
        buildah_storage.export(storage, image, layout)
    assert not layout.blob(digest).exists()


SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"


def a_template(place, snapshots):
    (place / SNAPSHOTS).mkdir(parents=True)
    for name in snapshots:
        (place / SNAPSHOTS / name).mkdir()
    (place / "io.containerd.content.v1.content/blobs/sha256").mkdir(parents=True)
    (place / "io.containerd.content.v1.content/blobs/sha256/abc").write_text("blob")
    (place / "io.containerd.metadata.v1.bolt").mkdir()
    for database in templates._DATABASES:
        (place / database).write_text("database")
    return place


def test_a_node_gets_links_to_its_template_and_databases_of_its_own(tmp_path):
    template = a_template(tmp_path / "base-1", ["1", "2"])
    root = tmp_path / "node"
    root.mkdir()
    templates.derive(template, root)
    links = {entry.name: PurePosixPath(entry.readlink()) for entry in (root / SNAPSHOTS).iterdir()}
    seen = PurePosixPath("/run/muster/templates/base-1") / SNAPSHOTS
    assert links == {"1": seen / "1", "2": seen / "2"}
    assert all(not (root / database).is_symlink() for database in templates._DATABASES)
    assert templates.blobs(root) == {"abc"}


def test_a_template_of_a_template_links_to_the_first(tmp_path):
    first, second, root = a_template(tmp_path / "base-1", ["1"]), tmp_path / "mine-1", tmp_path / "node"
    second.mkdir()
    root.mkdir()
    templates.derive(first, second)
    (second / SNAPSHOTS / "2").mkdir()
    templates.derive(second, root)
    targets = {entry.name: entry.readlink().parts[4] for entry in (root / SNAPSHOTS).iterdir()}
    assert targets == {"1": "base-1", "2": "mine-1"}


@pytest.mark.parametrize(
    "sources",
    [
        "deb [signed-by=/x] http://deb.example.org/debian bookworm main\n",
        "Types: deb\nURIs: http://deb.example.org/debian\nSuites: bookworm\n",
        "deb https://other.example.org/apt x main\nTypes: deb\nURIs: http://deb.example.org/debian/\n",
    ],
)
def test_the_mirror_is_the_one_of_this_machine(sources):
    assert bases.mirror(sources) == "http://deb.example.org/debian"


def test_a_machine_without_a_debian_mirror_is_told_so():
    with pytest.raises(ClusterError, match="no Debian mirror"):
        bases.mirror("deb http://archive.example.org/ubuntu noble main\n")


def test_a_base_is_built_on_its_parent_and_named_by_its_content():
    assert bases.TORCH.dockerfile.startswith(f"FROM {bases.PYTHON.tag}\n")
    assert bases.PYTHON.dockerfile.startswith(f"FROM {bases.SLIM}\n")
    assert len({base.tag for base in bases.BASES.values()}) == len(bases.BASES)
