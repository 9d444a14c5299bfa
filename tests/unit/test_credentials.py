from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.cli.dispatch import parse
from srpo_ray.config import ConfigError, load_run
from srpo_ray.config.rewards import PythonRewardConfig
from srpo_ray.credentials import expand, expand_uri, find_credentials, redact
from srpo_ray.rewards.registry import build_python_reward
from srpo_ray.tracking.runs import start_run
from srpo_ray.tracking.tracker import Tracker
from tests.conftest import SMALL_WORLD

SECRET = "pl4nted"

HOLDING = [
    f"http://me:{SECRET}@tracking.example:5000/path",
    f"https://{SECRET}@tracking.example",
    f"postgresql+psycopg2://me:{SECRET}@db.example:5432/mlflow",
    f"postgresql://me:{SECRET}/with/slashes@db.example/mlflow",
    f"mysql://me:5432{SECRET}@db.example/mlflow",
    f"redis://:{SECRET}@db.example:6379",
    f"s3://AKIA1234:{SECRET}@bucket/runs",
    f"https://blob.example/runs?sv=2024&sig={SECRET}",
    f"https://s3.example/runs?X-Amz-Signature={SECRET}&X-Amz-Date=1",
    f"sqlite:///mlflow.db?access_token={SECRET}",
    f"http://me:p@ss{SECRET}@tracking.example/path",
]
FREE = [
    "http://tracking.example:5000/users/me@example.org",
    "http://127.0.0.1:5000",
    "postgresql://me@db.example/mlflow",
    "postgresql://me:${PASSWORD}@db.example:5432/mlflow",
    "https://${TOKEN}@tracking.example",
    "https://blob.example/runs?sig=${SIGNATURE}",
    "hf-hub:org/model@main",
    "s3://bucket/runs?endpoint_override=minio.example:9000&scheme=http",
    "sqlite:////home/me/mlflow.db",
    "a photo of me: 12:30, someone@example.org",
]


@pytest.mark.parametrize("text", HOLDING)
def test_credentials_in_a_uri_are_found_and_redacted(text: str) -> None:
    assert list(find_credentials({"tracking": {"uri": text}})) == ["tracking.uri"]
    message = redact(f"cannot reach '{text}' at all, see {text}")
    assert SECRET not in message
    assert message.startswith(f"cannot reach '{text.partition('//')[0]}//")
    assert message.count("***") == 2
    assert " at all, see " in message


@pytest.mark.parametrize("text", FREE)
def test_text_without_credentials_is_unchanged(text: str) -> None:
    assert list(find_credentials({"tracking": {"uri": text}})) == []
    if "${" not in text:
        assert redact(text) == text


def test_secret_keys_accept_references_only() -> None:
    secret = dict.fromkeys(["api_key", "hf_token", "token", "password"], SECRET)
    plain = {"tokenizer": "x", "key": "y", "max_tokens": "z"}
    assert list(find_credentials({"arguments": secret | plain})) == [f"arguments.{key}" for key in secret]
    assert not list(find_credentials({"arguments": {"api_key": "${MY_KEY}", "max_token": 3, "secret": True}}))


@pytest.mark.parametrize("override", [f"tracking.uri=http://me:{SECRET}@x.example", f"run_root=s3://A:{SECRET}@b/runs"])
def test_config_with_a_credential_is_refused_without_repeating_it(override: str) -> None:
    with pytest.raises(ConfigError, match=rf"credentials.*{override.partition('=')[0]}.*environment") as caught:
        load_run([SMALL_WORLD], [override])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["train", str(SMALL_WORLD), f"tracking.uri=http://me:{SECRET}@x.example", "--dry-run"],
        ["train", str(SMALL_WORLD), f"tracking=http://me:{SECRET}@x.example", "--dry-run"],
        ["sweep", f"tracking.uri=http://me:{SECRET}@x.example", "--dry-run"],
        ["train", f"http://me:{SECRET}@x.example"],
    ],
)
def test_no_message_of_the_command_line_repeats_a_credential(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err


def test_command_in_a_report_contains_no_credential() -> None:
    assert SECRET not in parse(["train", f"tracking.uri=http://me:{SECRET}@x.example"]).typed


def test_reference_is_kept_in_the_config_and_looked_up_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://me:${PASSWORD}@x.example"
    monkeypatch.setenv("PASSWORD", "a/b@c")
    assert load_run([SMALL_WORLD], [f"tracking.uri={uri}"]).tracking.uri == uri
    assert expand_uri(uri) == "http://me:a%2Fb%40c@x.example"
    monkeypatch.setenv("WHOLE", "http://me:pw@x.example")
    assert expand_uri("${WHOLE}") == "http://me:pw@x.example"
    assert expand("key ${PASSWORD} $PASSWORD") == "key a/b@c $PASSWORD"


def test_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ValueError, match=r"environment variable ABSENT.*set it here, and on the nodes"):
        expand_uri("http://me:${ABSENT}@x.example")


class KeyedReward:
    image_size = 8
    image_gradient = False
    name = ""

    def __init__(self, key: str, strength: int) -> None:
        self.given = (key, strength)

    def score(self, images: object, queries: object) -> None: ...


def test_custom_reward_gets_the_value_of_the_variable_that_its_argument_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    target = f"{__name__}:KeyedReward"
    config = PythonRewardConfig(name="mine", target=target, arguments={"key": "${MY_KEY}", "strength": 2})
    reward = build_python_reward(config, "cpu")
    assert isinstance(reward, KeyedReward)
    assert reward.given == (SECRET, 2)


def test_worker_without_the_variable_ends_before_it_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ValueError, match="environment variable ABSENT"):
        Tracker("http://me:${ABSENT}@x.example", "run", tmp_path / "spool.jsonl")
    assert not list(tmp_path.iterdir())


def test_server_that_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://me:${PASSWORD}@127.0.0.1:9"
    with pytest.raises(ConnectionError) as caught:
        start_run(uri, "experiment", "name", tags={}, params={}, record=tmp_path / "record.json")
    assert uri in str(caught.value)
    assert SECRET not in str(caught.value)
