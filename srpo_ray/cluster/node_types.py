"""Registration of the autoscaler's node types, so that a run is checked against them before its start.

Ray's autoscaler does not publish them, so a cluster that is scaled to zero would appear to have no capacity.
The head's start commands run this once Ray is up:

python -m srpo_ray.cluster.node_types ~/ray_bootstrap_config.yaml 127.0.0.1:6379
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray._raylet
from ray.core.generated.autoscaler_pb2 import ClusterConfig  # pyright: ignore[reportAttributeAccessIssue]

from srpo_ray.config.yaml_text import load_all

# The module is compiled and has no types.
_raylet: Any = ray._raylet  # noqa: SLF001


def node_types(documents: list[Mapping[str, Any]]) -> ClusterConfig:
    """Read the node types of a cluster file of `ray up`, or of a KubeRay file with a RayCluster.

    Args:
        documents: YAML documents of the file.

    Raises:
        ValueError: If it is neither.
    """
    groups: list[tuple[str, Mapping[str, Any], int]] = []
    for document in documents:
        head = document.get("head_node_type")
        for name, group in document.get("available_node_types", {}).items():
            count = 1 if name == head else group.get("max_workers", document.get("max_workers", 0))
            groups.append((name, group["resources"], count))
        if document.get("kind") == "RayCluster":
            spec = document["spec"]
            groups.append(("head", spec["headGroupSpec"].get("resources", {}), 1))
            groups += [
                (group["groupName"], group["resources"], group["maxReplicas"]) for group in spec["workerGroupSpecs"]
            ]
    if not groups:
        raise ValueError("expected a file with available_node_types or with a RayCluster, got neither")
    config = ClusterConfig()
    for name, resources, count in groups:
        amounts = {resource: int(amount) for resource, amount in resources.items()}
        config.node_group_configs.add(name=name, resources=amounts, max_count=count)
    return config


def report(config: ClusterConfig, address: str) -> None:
    """Store the node types where Ray's libraries read them.

    Args:
        config: Node types.
        address: Address of the head's GCS, `HOST:PORT`.
    """
    key, namespace = _raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, _raylet.GCS_AUTOSCALER_STATE_NAMESPACE
    client = _raylet.GcsClient(address=address)
    client.internal_kv_put(key.encode(), config.SerializeToString(), True, namespace.encode())


if __name__ == "__main__":
    file, head = Path(sys.argv[1]).expanduser(), sys.argv[2]
    try:
        found = node_types(load_all(file.read_bytes()))
    except (ValueError, OSError) as mistake:
        sys.exit(f"{file}: {mistake}")
    report(found, head)
