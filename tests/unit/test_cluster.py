"""The cluster files against the checks of Ray or of the operator, and against what the project pins and asks for."""

import re
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from srpo_ray.cluster.node_types import node_types
from srpo_ray.config import load_run
from srpo_ray.launch.capacity import fitting_replicas
from tests.conftest import ROOT

RAY_UP = ["cluster.yaml", "cluster/gcp.yaml"]
KUBERAY = "cluster/kuberay.yaml"
STRING_MAP = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: list[str], **fields: Any) -> dict[str, Any]:
    """A schema of an object that has these fields and no other."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": fields}


def pod() -> dict[str, Any]:
    """A pod template, as far as the file uses one."""
    mount = closed(["name", "mountPath"], name={}, mountPath={}, subPath={})
    variable = closed(["name"], name={"type": "string"}, value={"type": "string"}, valueFrom={"type": "object"})
    container = closed(
        ["name", "image"],
        name={"type": "string"},
        image={"type": "string"},
        command={"type": "array", "items": {"type": "string"}},
        args={"type": "array", "items": {"type": "string"}},
        env={"type": "array", "items": variable},
        ports={"type": "array", "items": closed(["containerPort"], name={}, containerPort={"type": "integer"})},
        resources=closed([], limits={"type": "object"}, requests={"type": "object"}),
        volumeMounts={"type": "array", "items": mount},
        lifecycle=closed([], postStart={"type": "object"}, preStop={"type": "object"}),
    )
    spec = closed(
        ["containers"],
        containers={"type": "array", "minItems": 1, "items": container},
        nodeSelector=STRING_MAP,
        volumes={"type": "array", "items": {"type": "object", "required": ["name"]}},
        terminationGracePeriodSeconds={"type": "integer"},
    )
    return closed(["spec"], spec=spec, metadata={"type": "object"})


RAY_CLUSTER = closed(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    authOptions=closed([], mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed(
        [],
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds={"type": "integer"},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        image={"type": "string"},
        resources={"type": "object"},
        env={"type": "array"},
    ),
    headGroupSpec=closed(
        ["template", "rayStartParams"],
        template=pod(),
        rayStartParams=STRING_MAP,
        resources=STRING_MAP,
        labels=STRING_MAP,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    ),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            # A name of Kubernetes, which pods begin with.
            groupName={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
            replicas={"type": "integer", "minimum": 0},
            minReplicas={"type": "integer", "minimum": 0},
            maxReplicas={"type": "integer", "minimum": 1},
            idleTimeoutSeconds={"type": "integer"},
            numOfHosts={"type": "integer"},
            resources=STRING_MAP,
            labels=STRING_MAP,
            rayStartParams=STRING_MAP,
            template=pod(),
        ),
    },
)
RAY_JOB = closed(
    ["entrypoint"],
    entrypoint={"type": "string"},
    clusterSelector=STRING_MAP,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    shutdownAfterJobFinishes={"type": "boolean"},
    rayClusterSpec=RAY_CLUSTER,
)


def ray_up(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def kuberay() -> dict[str, dict[str, Any]]:
    """The documents of the file by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all((ROOT / KUBERAY).read_text())}


def validate_kuberay(documents: dict[str, dict[str, Any]]) -> None:
    for kind, schema in (("RayCluster", RAY_CLUSTER), ("RayJob", RAY_JOB)):
        assert documents[kind]["apiVersion"] == "ray.io/v1"
        jsonschema.validate(documents[kind]["spec"], schema)


def types_of(name: str) -> dict[str, dict[str, float]]:
    """Resources of each node type of a file."""
    found = node_types(list(yaml.safe_load_all((ROOT / name).read_text()))).node_group_configs
    return {group.name: dict(group.resources) for group in found}


def pins() -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_the_cluster_file(name: str) -> None:
    validate_config(prepare_config(ray_up(name)))


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_refuses_a_misspelt_key_in_it(name: str) -> None:
    cluster = ray_up(name)
    cluster["available_node_types"]["trainer"]["max_wokers"] = 1
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(cluster))


def test_kuberay_file_has_the_operators_fields() -> None:
    validate_kuberay(kuberay())


@pytest.mark.parametrize(
    ("path", "misspelt"),
    [
        ((), "enableInTreeAutoscalling"),
        (("autoscalerOptions",), "idleTimeout"),
        (("workerGroupSpecs", 0), "maxReplica"),
        (("headGroupSpec", "template", "spec", "containers", 0), "volumeMount"),
    ],
)
def test_misspelt_key_in_the_kuberay_file_is_found(path: tuple[str | int, ...], misspelt: str) -> None:
    documents = kuberay()
    place: Any = documents["RayCluster"]["spec"]
    for key in path:
        place = place[key]
    place[misspelt] = 1
    with pytest.raises(jsonschema.ValidationError, match=misspelt):
        validate_kuberay(documents)


@pytest.mark.parametrize("name", [*RAY_UP, KUBERAY])
def test_trainers_and_rewards_have_slots_that_the_other_lacks(name: str) -> None:
    for kind, resources in types_of(name).items():
        slots = {resource for resource in resources if resource.endswith("_slot")}
        assert slots == ({f"{re.split('[_-]', kind)[0]}_slot"} if kind != "head" else set())


@pytest.mark.parametrize("name", [*RAY_UP, KUBERAY])
@pytest.mark.parametrize(
    "recipe", ["flux_lora_48gb", "flux_lora_80gb", "flux_lora_8x80gb", "flux_full_8x80gb", "flux_full_32gpu"]
)
def test_recipes_with_own_reward_nodes_fit_the_node_types(name: str, recipe: str) -> None:
    folder = ROOT / "configs" / "recipes"
    config = load_run([folder / f"{recipe}.yaml", folder / "rewards_own_node.yaml"])
    counts = {
        group.name: group.max_count
        for group in node_types(list(yaml.safe_load_all((ROOT / name).read_text()))).node_group_configs
    }
    for need, number in (
        (config.training.worker_resources, config.training.max_workers),
        (config.rewards.pool.replica_resources, config.rewards.pool.most_replicas(1)),
    ):
        assert (
            sum(fitting_replicas(need, resources) * counts[kind] for kind, resources in types_of(name).items())
            >= number
        )


@pytest.mark.parametrize("name", RAY_UP)
def test_first_node_of_each_kind_is_on_demand_the_rest_spot_and_none_stays(name: str) -> None:
    kinds = ray_up(name)["available_node_types"]
    for kind in ("trainer", "reward"):
        assert kinds[kind]["max_workers"] == 1
        assert kinds[kind]["priority"] > kinds[f"{kind}_spot"].get("priority", 0)
        assert kinds[kind]["resources"] == kinds[f"{kind}_spot"]["resources"]
    assert all(kind["min_workers"] == 0 for kind in kinds.values())
    spot = {kind for kind, node in kinds.items() if "SPOT" in str(node["node_config"]).upper()}
    assert spot == {"trainer_spot", "reward_spot"}


@pytest.mark.parametrize("name", RAY_UP)
def test_every_process_of_a_cluster_asks_for_the_token(name: str) -> None:
    cluster = ray_up(name)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "export RAY_AUTH_MODE=token" in (ROOT / "cluster" / "environment.sh").read_text()
    for command in [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]:
        assert "cluster/environment.sh" in command
    assert kuberay()["RayCluster"]["spec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", RAY_UP)
def test_dashboard_is_on_the_heads_loopback_and_shells_find_the_cluster(name: str) -> None:
    cluster = ray_up(name)
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert any("RAY_ADDRESS=auto" in command for command in cluster["head_setup_commands"])


@pytest.mark.parametrize("name", RAY_UP)
def test_spot_nodes_watch_for_the_clouds_notice(name: str) -> None:
    cloud = ray_up(name)["provider"]["type"]
    (watch,) = [command for command in ray_up(name)["worker_start_ray_commands"] if "watch-spot" in command]
    assert f"srpo-ray watch-spot --cloud {cloud}" in watch
    assert "case $RAY_NODE_TYPE_NAME in *_spot)" in watch


def test_versions_are_those_of_the_constraints() -> None:
    pinned = pins()
    for name in RAY_UP:
        text = " ".join(ray_up(name)["setup_commands"])
        assert f"uv=={pinned['uv']} " in text
        assert "make setup PYTHON=" in text
        assert "python install --quiet 3.11" in text
    image = re.findall(r"^FROM rayproject/ray:(\S+)-py(\d)(\d+)-gpu$", (ROOT / "cluster/Dockerfile").read_text(), re.M)
    assert image == [(pinned["ray"], "3", "11")]
    assert f"uv=={pinned['uv']} " in (ROOT / "cluster/Dockerfile").read_text()
    assert kuberay()["RayCluster"]["spec"]["rayVersion"] == pinned["ray"]
    assert '>=3.11"' in (ROOT / "pyproject.toml").read_text()
