import json
from datetime import UTC, datetime, timedelta

import pytest

from srpo_ray.cluster.metadata import AWS, GCP, Azure, MetadataError, find_metadata
from tests.helpers.cluster.metadata_server import AwsRules, AzureRules, GcpRules, MetadataServer

SOON = timedelta(seconds=20)


def test_aws_gives_notice_with_its_own_deadline(server: MetadataServer) -> None:
    server.answer = rules = AwsRules()
    metadata = AWS(server.url)
    assert metadata.notice() is None
    rules.action = '{"action": "terminate", "time": "2027-03-04T05:06:07Z"}'
    notice = metadata.notice()
    assert notice is not None
    assert notice.deadline == datetime(2027, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert notice.cause == "spot terminate"
    assert server.asked.count("PUT /latest/api/token") == 1


def test_aws_token_that_has_ended_is_replaced(server: MetadataServer) -> None:
    server.answer = rules = AwsRules()
    rules.action = '{"action": "stop", "time": "2027-03-04T05:06:07Z"}'
    metadata = AWS(server.url)
    metadata.check()
    rules.tokens.clear()
    with pytest.raises(MetadataError, match="401"):
        metadata.notice()
    assert metadata.notice() is not None


def test_google_gives_notice_of_thirty_seconds(server: MetadataServer) -> None:
    server.answer = rules = GcpRules()
    metadata = GCP(server.url)
    assert metadata.notice() is None
    rules.values["preempted"] = "TRUE"
    notice = metadata.notice()
    assert notice is not None
    assert SOON < notice.deadline - datetime.now(UTC) <= timedelta(seconds=30)


def test_google_maintenance_counts_only_if_it_ends_the_machine(server: MetadataServer) -> None:
    server.answer = rules = GcpRules()
    rules.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    assert GCP(server.url).notice() is None
    rules.values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    notice = GCP(server.url).notice()
    assert notice is not None
    assert SOON < notice.deadline - datetime.now(UTC) <= timedelta(seconds=60)


def azure_event(kind: str, machine: str, not_before: str) -> dict[str, object]:
    return {
        "EventId": "A1", "EventType": kind, "ResourceType": "VirtualMachine", "Resources": [machine],
        "EventStatus": "Scheduled" if not_before else "Started", "NotBefore": not_before,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "machine"), [("Reboot", "trainers_7"), ("Preempt", "trainers_8"), ("Freeze", "trainers_8")]
)
def test_azure_events_of_another_kind_or_machine_are_none(server: MetadataServer, kind: str, machine: str) -> None:
    server.answer = rules = AzureRules()
    rules.events = json.dumps({"Events": [azure_event(kind, machine, "Mon, 19 Sep 2033 18:29:47 GMT")]})
    assert Azure(server.url).notice() is None


def test_azure_gives_notice_with_the_earliest_deadline_of_this_machine(server: MetadataServer) -> None:
    server.answer = rules = AzureRules()
    times = [("trainers_7", "Mon, 19 Sep 2033 18:29:47 GMT"), ("trainers_7", "Mon, 19 Sep 2033 18:28:00 GMT")]
    others = [("trainers_8", "Mon, 19 Sep 2033 18:00:00 GMT")]
    rules.events = json.dumps({"Events": [azure_event("Preempt", *entry) for entry in times + others]})
    notice = Azure(server.url).notice()
    assert notice is not None
    assert notice.deadline == datetime(2033, 9, 19, 18, 28, tzinfo=UTC)


def test_azure_event_that_has_started_is_due_now(server: MetadataServer) -> None:
    server.answer = rules = AzureRules()
    rules.events = json.dumps({"Events": [azure_event("Preempt", "trainers_7", "")]})
    notice = Azure(server.url).notice()
    assert notice is not None
    assert notice.deadline <= datetime.now(UTC)


@pytest.mark.parametrize(("rules", "cloud"), [(AwsRules(), "aws"), (GcpRules(), "gcp"), (AzureRules(), "azure")])
def test_auto_finds_the_cloud_whose_service_answers(server: MetadataServer, rules: AwsRules, cloud: str) -> None:
    server.answer = rules
    name, metadata = find_metadata("auto", server.url + "/")
    assert name == cloud
    assert metadata.notice() is None


def test_service_of_another_cloud_is_refused_with_its_answer(server: MetadataServer) -> None:
    server.answer = GcpRules()
    with pytest.raises(ValueError, match=r"service of aws at http.*aws: api/token: .*got 403"):
        find_metadata("aws", server.url)


def test_machine_without_a_service_is_refused_with_every_cloud(server: MetadataServer) -> None:
    server.close()
    with pytest.raises(ValueError, match=r"a cloud at http.*aws: .*gcp: .*azure: "):
        find_metadata("auto", server.url)


def test_proxy_of_the_environment_is_not_asked(server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = AwsRules()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    AWS(server.url).check()


@pytest.mark.parametrize("broken", [(0, ""), (500, ""), (200, "<html>"), (200, "[]"), (200, '{"action": "terminate"}')])
def test_answer_that_makes_no_sense_is_no_notice(server: MetadataServer, broken: tuple[int, str]) -> None:
    rules = AwsRules()
    server.answer = lambda method, path, headers: broken if "instance-action" in path else rules(method, path, headers)
    with pytest.raises(MetadataError):
        AWS(server.url).notice()
