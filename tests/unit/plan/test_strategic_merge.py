import pytest

from muster.plan.strategic_merge import merge

CASES = {
    "objects merge key by key": ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
    "a scalar is replaced": ({"a": 1}, {"a": 2}, {"a": 2}),
    "null removes": ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    "containers merge by name": (
        {"containers": [{"name": "worker", "image": "one"}]},
        {"containers": [{"name": "worker", "env": [{"name": "A"}]}, {"name": "side"}]},
        {"containers": [{"name": "worker", "image": "one", "env": [{"name": "A"}]}, {"name": "side"}]},
    ),
    "mounts merge by path": (
        {"volumeMounts": [{"mountPath": "/a", "name": "x"}]},
        {"volumeMounts": [{"mountPath": "/b", "name": "y"}]},
        {"volumeMounts": [{"mountPath": "/a", "name": "x"}, {"mountPath": "/b", "name": "y"}]},
    ),
    "a list without a merge key is replaced": ({"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
    "tolerations are replaced, as Kubernetes has it": (
        {"tolerations": [{"key": "a"}]},
        {"tolerations": []},
        {"tolerations": []},
    ),
}


@pytest.mark.parametrize(("base", "patch", "merged"), CASES.values(), ids=CASES.keys())
def test_merges(base, patch, merged):
    assert merge(base, patch) == merged


def test_leaves_its_inputs_alone():
    base, patch = {"a": {"b": [1]}}, {"a": {"c": 2}}
    merge(base, patch)
    assert (base, patch) == ({"a": {"b": [1]}}, {"a": {"c": 2}})
