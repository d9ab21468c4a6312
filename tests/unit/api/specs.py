"""Specs of TrainingJobs for property tests: good ones, and ones that a random change may have broken."""

from __future__ import annotations

import copy
import string
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from muster.api import ModelDeploymentSpec, TrainingJobSpec
from muster.api.structural import structural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.api.base import Model

Spec = dict[str, Any]

_NAME = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?)?", fullmatch=True)
_LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
_TEXT = st.text(string.ascii_letters + string.digits + " -_./:=é世\U0001f600\n'\"\\", max_size=20)
_IDENTIFIER = st.from_regex(r"[A-Za-z_][0-9A-Za-z_]{0,10}", fullmatch=True)
_QUANTITY = st.one_of(
    st.integers(0, 10**12),
    st.from_regex(
        r"\+?(0|[1-9][0-9]{0,8}|[0-9]{1,6}\.[0-9]{0,4}|\.[0-9]{1,4})([numkMGT]|[KMGT]i|[eE][-+]?[0-9])?",
        fullmatch=True,
    ),
)
_METRIC = st.text(string.ascii_letters, min_size=1, max_size=64)
_FRACTION = st.from_regex(r"0\.[0-9]{0,5}[1-9]", fullmatch=True)
_DECIMAL = st.from_regex(r"[0-9]{0,6}[1-9](\.[0-9]{1,5})?([eE][-+]?[0-9]{1,2})?", fullmatch=True)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_IDENTIFIER, inner, max_size=3),
    max_leaves=6,
)


def _block(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Spec]:
    return st.fixed_dictionaries({}, optional=optional)


def _resources() -> st.SearchStrategy[Spec]:
    limits = st.dictionaries(st.sampled_from(["cpu", "memory", "ephemeral-storage"]), _QUANTITY, max_size=3)
    devices = st.dictionaries(
        st.sampled_from(["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.5gb", "rdma/hca"]),
        st.integers(0, 8) | st.integers(0, 8).map(str),
        max_size=2,
    )
    requests = st.dictionaries(st.sampled_from(["hugepages-2Mi", "example"]), _QUANTITY, max_size=2)
    claim = st.fixed_dictionaries(
        {"name": _LABEL},
        optional={"request": _LABEL},
    ).flatmap(
        lambda one: st.sampled_from(["resourceClaimName", "resourceClaimTemplateName"]).flatmap(
            lambda kind: _NAME.map(lambda name: one | {kind: name})
        )
    )
    return _block(
        limits=st.tuples(limits, devices).map(lambda both: both[0] | both[1]),
        requests=requests,
        claims=st.lists(claim, max_size=3, unique_by=lambda one: one["name"]),
    )


def _template() -> st.SearchStrategy[Spec]:
    variable = st.fixed_dictionaries(
        {"name": st.from_regex(r"MY_[A-Z]{1,8}", fullmatch=True)}, optional={"value": _TEXT}
    )
    container = st.fixed_dictionaries(
        {"name": st.sampled_from(["worker", "sidecar", "logs"])},
        optional={
            "image": _TEXT,
            "env": st.lists(variable, max_size=3, unique_by=lambda item: item["name"]),
            "volumeMounts": st.just([{"name": "data", "mountPath": "/data"}]),
        },
    )
    pod = _block(
        containers=st.lists(container, max_size=3, unique_by=lambda item: item["name"]),
        nodeSelector=st.dictionaries(_NAME, _NAME, max_size=2),
        tolerations=st.just([{"operator": "Exists"}]),
        securityContext=st.none(),
        terminationGracePeriodSeconds=st.integers(5, 600),
        volumes=st.just([{"name": "data", "emptyDir": {}}]),
    )
    metadata = _block(
        labels=st.dictionaries(_NAME, _NAME, max_size=2), annotations=st.dictionaries(_NAME, _TEXT, max_size=2)
    )
    return _block(metadata=metadata, spec=pod)


def _common() -> dict[str, st.SearchStrategy[Any]]:
    path = {"path": st.from_regex(r"[a-z0-9.]{1,3}x(/[a-z0-9_]{1,5}){0,2}", fullmatch=True)}
    volume = st.fixed_dictionaries({"size": _QUANTITY}, optional={"storageClassName": _NAME})
    return {
        "replicas": st.integers(1, 10_000),
        "processesPerWorker": st.just("auto") | st.integers(1, 128),
        "backend": st.sampled_from(["auto", "gloo"]),
        "source": st.fixed_dictionaries({"configMap": _NAME}),
        "resources": _resources(),
        "template": _template(),
        "storage": st.one_of(
            st.fixed_dictionaries(
                {"persistentVolumeClaim": st.fixed_dictionaries({"claimName": _NAME})}, optional=path
            ),
            st.fixed_dictionaries({"ephemeral": volume}, optional=path),
        ),
        "initialModel": st.fixed_dictionaries({"fromTrainingJob": _NAME.map(lambda name: f"{name}-before")}),
        "checkpoint": _block(
            everySteps=st.integers(1, 10**9),
            everySeconds=st.integers(0, 10**6),
            keep=st.integers(1, 1000),
            asynchronous=st.booleans(),
        ),
        "failurePolicy": _block(
            maxRestarts=st.integers(0, 10_000),
            permanentExitCodes=st.lists(st.integers(1, 255), max_size=5, unique=True),
            nodeLostSeconds=st.integers(0, 10**6),
            hangTimeoutSeconds=st.integers(1, 10**6),
        ),
        "successPolicy": st.sampled_from(["AllWorkers", "Rank0"]),
        "network": _block(
            interface=st.sampled_from(["eth0", "net1", "bond0.100"]),
            rdmaDevices=st.sampled_from(["mlx5", "mlx5_0,mlx5_1", "=mlx5_0:1", "^mlx5_3", "^=mlx5_3"]),
        ),
        "scheduling": st.one_of(
            _block(
                gang=st.sampled_from(["auto", "none", "coscheduling", "volcano"]),
                queueName=_NAME,
                priorityClassName=_NAME,
                topologyKey=st.just(""),
            ),
            _block(priorityClassName=_NAME, topologyKey=st.sampled_from(["topology.kubernetes.io/zone", "rack"])),
        ),
        "suspend": st.booleans(),
        "activeDeadlineSeconds": st.integers(1, 31_536_000),
        "ttlSecondsAfterFinished": st.integers(0, 31_536_000),
        "podCleanup": st.sampled_from(["All", "Running", "None"]),
        "managedBy": st.sampled_from(["muster.dev/operator", "kueue.x-k8s.io/multikueue"]),
    }


def _elastic(spec: Spec) -> Spec:
    """Bounds around whatever number of replicas there is, and no queue, which takes a fixed number."""
    replicas = spec.get("replicas", 1)
    elastic = {"minReplicas": max(1, replicas - 2), "maxReplicas": min(10_000, replicas + 3)}
    scheduling = {name: value for name, value in spec.get("scheduling", {}).items() if name != "queueName"}
    return spec | {"elastic": elastic, "scheduling": scheduling}


def _recipes() -> st.SearchStrategy[Spec]:
    name = st.tuples(st.lists(_IDENTIFIER, min_size=1, max_size=3), _IDENTIFIER).map(
        lambda parts: f"{'.'.join(parts[0])}:{parts[1]}"
    )
    config = st.dictionaries(_IDENTIFIER, _JSON, max_size=3)
    rate = _block(
        initial=_DECIMAL,
        schedule=st.sampled_from(["constant", "plateau", "cosine"]),
        warmUpSteps=st.integers(0, 1000),
        minimum=_DECIMAL,
        metric=_METRIC,
        factor=_FRACTION,
        patience=st.integers(0, 100),
    )
    return st.fixed_dictionaries(
        {"recipe": st.fixed_dictionaries({"name": name}, optional={"config": config})},
        optional=_common()
        | {
            "strategy": _block(type=st.just("ddp")),
            "optimisation": _block(
                learningRate=rate,
                gradientAccumulation=st.integers(1, 100_000),
                earlyStopping=_block(metric=_METRIC, patience=st.integers(1, 100), minimumChange=_DECIMAL),
            ),
            "compression": st.lists(_compression(), min_size=1, max_size=3),
            "preflight": _block(minMegabytesPerSecond=_DECIMAL, maxLatencyMilliseconds=_DECIMAL, minGigaflops=_DECIMAL),
        },
    )


def _compression() -> st.SearchStrategy[Spec]:
    drop = {"maxAccuracyDrop": _FRACTION}
    clip = st.sampled_from(["epsilon", "standardDeviations"]).flatmap(
        lambda name: st.fixed_dictionaries({name: _DECIMAL}, optional=drop)
    )
    prune = st.fixed_dictionaries({"fraction": _FRACTION}, optional=drop)
    quantize = st.sampled_from([(8, "dynamic"), (8, "weightOnly"), (4, "weightOnly")]).flatmap(
        lambda one: st.fixed_dictionaries({"bits": st.just(one[0]), "mode": st.just(one[1])}, optional=drop)
    )
    return st.one_of(
        clip.map(lambda one: {"clip": one}),
        prune.map(lambda one: {"prune": one}),
        quantize.map(lambda one: {"quantize": one}),
    )


def _scripts() -> st.SearchStrategy[Spec]:
    script = st.fixed_dictionaries({"command": st.lists(_TEXT, min_size=1, max_size=5)})
    return st.fixed_dictionaries({"script": script}, optional=_common())


def _divided(spec: Spec, kind: str, data: int, tensor: int, pipeline: int) -> Spec:
    """A strategy that divides the model in ways that fit, and a claim for its parts."""
    return spec | {
        "replicas": data * tensor * pipeline,
        "processesPerWorker": 1,
        "strategy": {"type": kind, "mesh": {"data": data, "tensor": tensor, "pipeline": pipeline}},
        "storage": {"persistentVolumeClaim": {"claimName": "models"}},
    }


def _on_tpus(spec: Spec, chips: int, backend: str, *, counted: bool) -> Spec:
    """A process for each chip, whether or not that is written."""
    return spec | {
        "resources": {"limits": {"google.com/tpu": chips}},
        "backend": backend,
        "processesPerWorker": chips if counted else "auto",
    }


_FIXED = _recipes() | _scripts()
_ON_XLA = st.builds(
    _on_tpus, _FIXED, st.integers(1, 8), st.sampled_from(["auto", "xla"]), counted=st.booleans()
) | _FIXED.map(lambda spec: spec | {"backend": "xla", "replicas": 1, "processesPerWorker": 1})
_WAYS = st.integers(1, 20)
_DIVIDED = st.builds(_divided, _recipes(), st.sampled_from(["fsdp", "tensor"]), _WAYS, _WAYS, st.just(1)) | st.builds(
    _divided, _recipes(), st.just("pipeline"), _WAYS, _WAYS, _WAYS
)
GOOD = _FIXED | _FIXED.map(_elastic) | _DIVIDED | _ON_XLA

_MODEL = st.one_of(
    st.fixed_dictionaries(
        {"fromTrainingJob": _NAME}, optional={"sha256": st.from_regex("[0-9a-f]{64}", fullmatch=True)}
    ),
    st.fixed_dictionaries(
        {"persistentVolumeClaim": st.fixed_dictionaries({"claimName": _NAME}, optional={"path": st.just("a/model")})}
    ),
    st.fixed_dictionaries({"uri": st.sampled_from(["s3://models/digits", "https://example.org/digits"])}),
)
_GROUP = st.one_of(
    _block(size=st.integers(1, 1000)),
    _block(parallelism=_block(data=st.integers(1, 1000), tensor=st.integers(1, 1000), pipeline=st.integers(1, 1000))),
    st.builds(
        lambda size, times, tensor: {"size": size, "parallelism": {"data": size * times, "tensor": tensor}},
        *(st.integers(1, 9) for _ in range(3)),
    ),
)
_EXPLAIN = st.one_of(
    st.builds(
        lambda method, baseline: {"method": method} | baseline,
        st.sampled_from(["integratedGradients", "occlusion"]),
        st.sampled_from([{}, {"baseline": "zeros"}, {"baseline": "0.5"}, {"baseline": "-12"}]),
    ),
    st.just({"method": "saliency"}),
)
_GROUPS = st.integers(1, 1000) | st.integers(1, 100).map(lambda share: f"{share}%")

_DEPLOYMENT = st.fixed_dictionaries(
    {"model": _MODEL},
    optional={
        "runtime": st.just("torch"),
        "replicas": st.integers(0, 1000),
        "group": _GROUP,
        "resources": _resources(),
        "template": _template(),
        "batching": _block(maxBatchSize=st.integers(1, 65_536), maxDelayMilliseconds=st.integers(0, 10_000)),
        "rollout": _block(
            maxSurge=_GROUPS,
            maxUnavailable=st.just(0) | _GROUPS,
            partition=st.integers(0, 1000),
            progressDeadlineSeconds=st.integers(1, 86_400),
            onFailure=st.sampled_from(["Rollback", "Pause"]),
            paused=st.booleans(),
            restart=_TEXT,
            drainSeconds=st.integers(1, 3600),
            revisionHistoryLimit=st.integers(0, 100),
        ),
        "autoscaling": st.builds(
            lambda least, more, metric: {"minReplicas": least, "maxReplicas": least + more} | metric,
            st.integers(1, 500),
            st.integers(0, 500),
            st.sampled_from(
                [{"target": "0.5"}, {"target": "80", "metric": "cpu"}, {"target": "1e3", "metric": "requestsPerSecond"}]
            ),
        ),
        "failover": _block(
            unreachableSeconds=st.integers(1, 3600),
            nodeLostSeconds=st.integers(0, 86_400),
            maxGroupRestarts=st.integers(0, 1000),
        ),
        "spread": _block(topologyKey=st.just("rack"), policy=st.sampled_from(["Prefer", "Require"])),
        "service": _block(
            type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), port=st.just(80), grpcPort=st.just(90)
        ),
        "suspend": st.booleans(),
    },
)

_EXPLAINED = st.builds(
    lambda spec, explain: {name: value for name, value in spec.items() if name != "group"} | {"explain": explain},
    _DEPLOYMENT,
    _EXPLAIN,
)
_COMPRESSED = st.builds(
    lambda spec, steps: spec | ({} if "uri" in spec["model"] else {"compression": steps}),
    _DEPLOYMENT,
    st.lists(_compression(), max_size=3),
)
GOOD_DEPLOYMENT = _DEPLOYMENT | _EXPLAINED | _COMPRESSED

_FOREIGN: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2.0, 0.5, 3, 256, 10_001, 2**31, 2**40, 2**62),
    *("", "0", "1", "0.1", "1e3", "-1", "2Gi", "2 cores", "1.5e", "auto", "ddp", "gloo", "xla", "none", "volcano"),
    *("..", "a/../b", "/absolute", "a..b", "MUSTER_RANK", "RANK", "worker", "shm", "/muster/run", "/dev/shm"),
    *("UPPER", "under_score", "-dash", "a.b:C", "a:b:c", "line\nbreak", "é", "x" * 64, "x" * 254, "x" * 520),
    *("10%", "101%", "a" * 64, "Prefer"),
    *([], {}, [1, 1], ["a", "a"], [{"name": "worker"}] * 2, [None], {"a": None}, {"name": "worker"}, [[]]),
    *({"nvidia.com/gpu": 1}, {"nvidia.com/gpu": "0.5"}, {"cpu": "2"}, {"muster.dev/rank": "0"}, {"a/b": "c"}),
    {"minReplicas": 1, "maxReplicas": 2},
    {"claimName": "models"},
    {"size": "1Gi"},
    {"size": 2, "parallelism": {"tensor": 3}},
    {"size": 3},
    {"method": "saliency", "baseline": "1"},
    {"fromTrainingJob": "other"},
    [{"clip": {"epsilon": "3"}}],
    [{"name": "worker", "command": ["sh"]}],
    [{"name": "worker", "env": [{"name": "LOCAL_RANK", "value": "1"}]}],
)  # fmt: skip


def _names(schema: dict[str, Any]) -> Iterator[str]:
    """All names of fields in a schema."""
    yield from schema.get("properties", {})
    for inner in schema.get("properties", {}).values():
        yield from _names(inner)
        yield from _names(inner.get("items", {}))


def _fields(of: type[Model]) -> list[str]:
    return sorted({*_names(structural(of)), "unknown", "max_restarts"})


_FIELDS = {"TrainingJob": _fields(TrainingJobSpec), "ModelDeployment": _fields(ModelDeploymentSpec)}


@st.composite
def changed(draw: st.DrawFn, kind: str = "TrainingJob") -> Spec:
    """A good spec after one to three changes anywhere in it: a value replaced, a field taken away or put in."""
    spec: Spec = copy.deepcopy(draw(GOOD if kind == "TrainingJob" else GOOD_DEPLOYMENT))
    for _ in range(draw(st.integers(1, 3))):
        parent = draw(st.sampled_from(list(_containers(spec))))
        places: list[Any] = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "add" or not places:
            if isinstance(parent, dict):
                parent[draw(st.sampled_from(_FIELDS[kind]))] = copy.deepcopy(draw(st.sampled_from(_FOREIGN)))
        elif change == "remove":
            del parent[draw(st.sampled_from(places))]
        else:
            parent[draw(st.sampled_from(places))] = copy.deepcopy(draw(st.sampled_from(_FOREIGN)))
    return spec


def _containers(value: Any) -> Any:
    """All objects and lists in a spec."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)
