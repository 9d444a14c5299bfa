"""Requests of `ray up cluster.yaml` to AWS, by Ray's AWS code against a mock of AWS."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

from tests.conftest import ROOT

REGION = "us-east-1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The cluster file as Ray's AWS code completes it: roles, keys, subnets, security group."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    with pytest.MonkeyPatch.context() as patch, mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        patch.delenv("AWS_PROFILE", raising=False)
        # The key pair that Ray makes is written below it.
        patch.setenv("HOME", str(home))
        patch.chdir(ROOT)
        from ray.autoscaler._private.aws import config as aws_config
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        # Ray waits for AWS to spread new roles.
        patch.setattr(aws_config.time, "sleep", lambda _: None)
        config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
        yield AWSNodeProvider.bootstrap_config(config)


def launch(cluster: dict[str, Any], kind: str, role: str) -> dict[str, Any]:
    """Have Ray start a node of a type; gives what AWS then has."""
    provider = _get_node_provider(cluster["provider"], cluster["cluster_name"], use_cache=False)
    node = cluster["available_node_types"][kind]["node_config"]
    tags = {TAG_RAY_NODE_KIND: role, TAG_RAY_USER_NODE_TYPE: kind, TAG_RAY_NODE_NAME: kind, TAG_RAY_LAUNCH_CONFIG: "0"}
    provider.create_node({**(cluster["head_node"] if role == "head" else {}), **node}, tags, 1)
    (identity,) = provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: kind})
    found = boto3.client("ec2", region_name=REGION).describe_instances(InstanceIds=[identity])
    return found["Reservations"][0]["Instances"][0]


@pytest.mark.parametrize(
    ("kind", "instance", "lifecycle"),
    [
        ("head", "m6i.4xlarge", None),
        ("trainer", "p5.48xlarge", None),
        ("trainer_spot", "p5.48xlarge", "spot"),
        ("reward", "g6e.4xlarge", None),
        ("reward_spot", "g6e.4xlarge", "spot"),
    ],
)
def test_node_is_of_the_instance_and_market_that_its_type_names(
    cluster: dict[str, Any], kind: str, instance: str, lifecycle: str | None
) -> None:
    found = launch(cluster, kind, "head" if kind == "head" else "worker")
    assert found["InstanceType"] == instance
    assert found.get("InstanceLifecycle") == lifecycle
    assert [group["GroupName"] for group in found["SecurityGroups"]] == ["srpo-ray"]
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    # The head starts and ends nodes; what runs on the others needs no rights in the account.
    assert ("IamInstanceProfile" in found) == (kind == "head")


def test_security_group_lets_in_ssh_and_its_own_members_alone(cluster: dict[str, Any]) -> None:
    client = boto3.client("ec2", region_name=REGION)
    (group,) = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["srpo-ray"]}])[
        "SecurityGroups"
    ]
    rules = {
        (rule["IpProtocol"], rule.get("FromPort"), tuple(pair["GroupId"] for pair in rule["UserIdGroupPairs"]))
        for rule in group["IpPermissions"]
    }
    assert {(protocol, members) for protocol, _, members in rules} == {("tcp", ()), ("-1", (group["GroupId"],))}
    assert [rule["FromPort"] for rule in group["IpPermissions"] if rule["IpRanges"]] == [22]
    assert [rule["ToPort"] for rule in group["IpPermissions"] if rule["IpRanges"]] == [22]
    kinds = cluster["available_node_types"].values()
    assert all(kind["node_config"]["SecurityGroupIds"] == [group["GroupId"]] for kind in kinds)
