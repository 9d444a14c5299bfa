"""Tell a cluster which node types its autoscaler may start, so that a run is measured against them before it begins.

Ray's own autoscaler keeps that to itself, so a cluster that is scaled to zero would look as if it could hold nothing.
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

# Compiled, so a type checker sees nothing in it.
_raylet: Any = ray._raylet  # noqa: SLF001


def node_types(documents: list[Mapping[str, Any]]) -> ClusterConfig:
    """Node types of a cluster file of `ray up`, or of a KubeRay file with a RayCluster in it.

    Args:
        documents: The file's YAML documents.

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
        raise ValueError("expected a file with available_node_types or with a RayCluster, got none of them")
    config = ClusterConfig()
    for name, resources, count in groups:
        amounts = {resource: int(amount) for resource, amount in resources.items()}
        config.node_group_configs.add(name=name, resources=amounts, max_count=count)
    return config


def report(config: ClusterConfig, address: str) -> None:
    """Put the node types where Ray's own libraries look for them too.

    Args:
        config: The node types.
        address: The head's GCS, `HOST:PORT`.
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
