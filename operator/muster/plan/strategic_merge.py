"""Lay a user's partial pod template over the one that Muster builds.

The rules are those of Kubernetes' strategic merge patch for pods: objects merge key by key, the lists below
merge by the key that names their items, every other list and every scalar is replaced, null removes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# As `patchMergeKey` has them in the Kubernetes API of core/v1 PodSpec and Container.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `patch` laid over it; neither is changed."""
    merged = dict(base)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_value(name, base.get(name), value)
    return merged


def _merge_value(name: str, base: Any, patch: Any) -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        return merge(base, patch)
    if name in MERGE_KEYS and isinstance(base, list) and isinstance(patch, list):
        return _merge_list(MERGE_KEYS[name], base, patch)
    return patch


def _merge_list(key: str, base: list[Any], patch: list[Any]) -> list[Any]:
    """Items of the same key merge in place, new ones follow in the patch's order.

    A list of anything else is left as it is: the API server says what is wrong with it.
    """
    if not all(isinstance(item, dict) for item in patch):
        return patch
    merged = {item.get(key): item for item in base}
    for item in patch:
        known = merged.get(item.get(key))
        merged[item.get(key)] = merge(known, item) if known is not None else item
    return list(merged.values())
