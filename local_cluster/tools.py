"""The command-line programs that people and tests use with a cluster: one directory for PATH."""

from pathlib import Path

from local_cluster import cache, go_builds

# program -> the build that brings it
WANTED = {
    "kubectl": go_builds.KUBERNETES,
    "helm": go_builds.HELM,
    "kubeconform": go_builds.KUBECONFORM,
    "kwok": go_builds.KWOK,
    "kind": go_builds.KIND,
}


def directory() -> Path:
    """Builds what is missing; the directory has links to the programs."""
    places = {program: go_builds.build(wanted) / program for program, wanted in WANTED.items()}

    def link(partial: Path) -> None:
        for program, place in places.items():
            (partial / program).symlink_to(place)

    return cache.make("tools", cache.key(*(str(place) for place in places.values())), link)
