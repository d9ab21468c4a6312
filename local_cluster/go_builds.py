"""Builds the Go programs pinned in modules/*/go.mod into the cache."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from local_cluster import cache, commands
from local_cluster.errors import ClusterError
from local_cluster.images.oci import architecture

MODULES = Path(__file__).parent / "modules"
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOWORK": "off"}


@dataclass(frozen=True)
class GoBuild:
    """One module folder. `stamps` are linker variables; {version}, {major}, {minor} come from `version_of`."""

    name: str
    version_of: str = ""  # the module whose version counts
    target: str = "tool"
    sources: tuple[str, ...] = ()  # of our own, beside go.mod and go.sum
    data: tuple[str, ...] = ()  # files of the module `version_of` that are wanted beside the programs
    stamps: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    seconds: float = 120  # to build it from nothing on two cores

    @property
    def folder(self) -> Path:
        return MODULES / self.name

    def version(self) -> str:
        if not self.version_of:
            return "v0.0.0"
        return required_version((self.folder / "go.mod").read_text(), self.version_of)


KUBERNETES = GoBuild(
    "kubernetes",
    version_of="k8s.io/kubernetes",
    stamps=tuple(
        f"{package}.{variable}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for variable in (
            "gitVersion={version}",
            "gitMajor={major}",
            "gitMinor={minor}",
            "gitTreeState=clean",
        )
    ),
    renamed=(("server", "etcd"),),
    seconds=600,
)
PAUSE = GoBuild("pause", target=".", sources=("main.go",), seconds=5)
COREDNS = GoBuild("coredns", version_of="github.com/coredns/coredns")
KWOK = GoBuild(
    "kwok",
    version_of="sigs.k8s.io/kwok",
    data=(
        "kustomize/stage/node/fast/node-initialize.yaml",
        "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
        "kustomize/stage/pod/fast/pod-ready.yaml",
        # Not pod-complete.yaml, which ends the pods of Jobs as soon as they run.
        "kustomize/stage/pod/fast/pod-delete.yaml",
    ),
    stamps=("sigs.k8s.io/kwok/pkg/consts.Version={version}",),
)
HELM = GoBuild(
    "helm",
    version_of="helm.sh/helm/v3",
    stamps=(
        "helm.sh/helm/v3/internal/version.version={version}",
        # What `helm template` and `helm lint` take for the cluster's version.
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor={kubernetes_major}",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor={kubernetes_minor}",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor={kubernetes_major}",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={kubernetes_minor}",
    ),
)
KUBECONFORM = GoBuild(
    "kubeconform", version_of="github.com/yannh/kubeconform", stamps=("main.version={version}",), seconds=20
)
SCHEDULER_PLUGINS = GoBuild(
    "scheduler_plugins",
    version_of="sigs.k8s.io/scheduler-plugins",
    data=(
        "config/crd/bases/scheduling.x-k8s.io_podgroups.yaml",
        "config/crd/bases/scheduling.x-k8s.io_elasticquotas.yaml",
    ),
    seconds=240,
)
VOLCANO = GoBuild(
    "volcano",
    version_of="volcano.sh/volcano",
    data=(
        "config/crd/volcano/bases/nodeinfo.volcano.sh_numatopologies.yaml",
        "config/crd/volcano/bases/scheduling.volcano.sh_podgroups.yaml",
        "config/crd/volcano/bases/scheduling.volcano.sh_queues.yaml",
        "installer/helm/chart/volcano/config/volcano-scheduler.conf",
    ),
    seconds=240,
)
KUEUE = GoBuild(
    "kueue",
    version_of="sigs.k8s.io/kueue",
    data=tuple(
        f"config/components/crd/bases/kueue.x-k8s.io_{plural}.yaml"
        for plural in (
            "admissionchecks",
            "clusterqueues",
            "cohorts",
            "localqueues",
            "multikueueclusters",
            "multikueueconfigs",
            "provisioningrequestconfigs",
            "resourceflavors",
            "topologies",
            "workloadpriorityclasses",
            "workloads",
        )
    ),
    seconds=240,
)
# Of Kubernetes' own tests: it plays devices that pods can claim.
DRA_TEST_DRIVER = GoBuild("dra_test_driver", version_of="k8s.io/kubernetes", seconds=120)
METRICS_SERVER = GoBuild("metrics-server", version_of="sigs.k8s.io/metrics-server", seconds=200)
TRAEFIK = GoBuild(
    "traefik",
    version_of="sigs.k8s.io/gateway-api",
    data=tuple(
        f"config/crd/standard/gateway.networking.k8s.io_{plural}.yaml"
        for plural in (
            "backendtlspolicies",
            "gatewayclasses",
            "gateways",
            "grpcroutes",
            "httproutes",
            "referencegrants",
        )
    ),
    seconds=300,
)
KIND = GoBuild("kind", version_of="sigs.k8s.io/kind", seconds=30)
# Whom the benchmark runs beside Muster.
JOBSET = GoBuild(
    "jobset",
    version_of="sigs.k8s.io/jobset",
    target=".",
    sources=("main.go",),
    data=("config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml",),
    seconds=200,
)
TRAINING_OPERATOR = GoBuild(
    "training-operator",
    version_of="github.com/kubeflow/training-operator",
    target=".",
    sources=("main.go",),
    data=("manifests/base/crds/kubeflow.org_pytorchjobs.yaml",),
    seconds=200,
)


def required_version(go_mod: str, module: str) -> str:
    found = re.search(rf"^(?:require )?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise ClusterError(f"go.mod does not name {module}: it must, with its version")
    return found[1]


def build(wanted: GoBuild) -> Path:
    """The directory with the programs, built now if they are not in the cache."""
    flags = _flags(wanted)
    place = cache.entry("builds", _entry_name(wanted, flags))
    if place.is_dir():
        return place
    toolchain = _toolchain(wanted)
    return cache.make("builds", place.name, lambda partial: _compile(wanted, flags, toolchain, partial))


def is_built(wanted: GoBuild) -> bool:
    return cache.entry("builds", _entry_name(wanted, _flags(wanted))).is_dir()


def _entry_name(wanted: GoBuild, flags: list[str]) -> str:
    # The version of Go is pinned from below by go.mod; a newer one makes programs that do the same.
    files = [wanted.folder / name for name in ("go.mod", "go.sum", *wanted.sources)]
    settings = [f"{name}={value}" for name, value in sorted(_ENVIRONMENT.items())]
    return f"{wanted.name}-{cache.key(*files, *flags, *settings, *wanted.data, os.uname().machine)}"


def _flags(wanted: GoBuild) -> list[str]:
    return ["-trimpath", "-buildvcs=false", f"-ldflags={' '.join(['-s', '-w', *_linker_variables(wanted)])}"]


def _linker_variables(wanted: GoBuild) -> list[str]:
    version, kubernetes = wanted.version(), KUBERNETES.version()
    fields = {
        "version": version,
        **dict(zip(("major", "minor"), _major_minor(version), strict=True)),
        **dict(zip(("kubernetes_major", "kubernetes_minor"), _major_minor(kubernetes), strict=True)),
    }
    return [f"-X {stamp.format_map(fields)}" for stamp in wanted.stamps]


def _major_minor(version: str) -> list[str]:
    return version.removeprefix("v").split(".")[:2]


def _compile(wanted: GoBuild, flags: list[str], toolchain: dict[str, str], place: Path) -> None:
    commands.run("go", "build", *flags, "-o", f"{place}/", wanted.target, cwd=wanted.folder, env=toolchain)
    for old, new in wanted.renamed:
        (place / old).rename(place / new)
    if wanted.data:
        listing = commands.run(
            "go", "list", "-m", "-f", "{{.Dir}}", wanted.version_of, cwd=wanted.folder, env=toolchain
        )
        for name in wanted.data:
            shutil.copyfile(Path(listing.strip()) / name, place / Path(name).name)


def _toolchain(wanted: GoBuild) -> dict[str, str]:
    """The environment for `go`, once it is known to be there and new enough."""
    needed = _go_directive((wanted.folder / "go.mod").read_text())
    install = (
        f"  curl -fL https://go.dev/dl/go{needed}.linux-{architecture()}.tar.gz | tar -C /usr/local -xz\n"
        "  export PATH=/usr/local/go/bin:$PATH"
    )
    if commands.find("go") is None:
        raise ClusterError(f"Go {needed} or newer is needed to build {wanted.name}, none was found; type:\n{install}")
    found = commands.run("go", "env", "GOVERSION", env={"GOTOOLCHAIN": "local"}).strip().removeprefix("go")
    if _numbers(found) >= _numbers(needed):
        return {**_ENVIRONMENT, "GOTOOLCHAIN": "local"}
    if _numbers(found) >= (1, 21):
        # This Go can bring the newer one itself.
        return {**_ENVIRONMENT, "GOTOOLCHAIN": f"go{needed}"}
    raise ClusterError(f"Go {needed} or newer is needed to build {wanted.name}, found {found}; type:\n{install}")


def _go_directive(go_mod: str) -> str:
    found = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if found is None:
        raise ClusterError("go.mod has no `go` line: it must name the version of Go")
    return found[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
