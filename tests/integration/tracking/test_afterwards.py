"""Metrics that are added to an MLflow run after it has ended."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from srpo_ray.cli import main
from srpo_ray.runs.folder import RunFolder
from srpo_ray.tracking.afterwards import log_afterwards
from srpo_ray.tracking.runs import end_run, start_run
from srpo_ray.votes.ledger import open_ledger
from srpo_ray.votes.session import Session
from srpo_ray.votes.sources import open_ballot
from tests.helpers.ballots import METRIC, write_run

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_votes_are_logged_beside_the_proxies_and_the_run_keeps_its_status(
    uri: str, client: "MlflowClient", tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    write_run(folder.path, "mine", {"base": 0.1, "tuned": 0.3})
    run_id = start_run(uri, "small", "mine", tags={}, params={}, record=folder.tracker_record)
    end_run(folder.tracker_record, folder.tracker_spool, "KILLED")
    with open_ledger(folder.path) as ledger:
        session = Session(open_ballot(folder.path), ledger, [])
        for _ in range(3):
            session.vote("Ada", str(session.current("Ada")["ticket"]), "tie")
    assert main(["vote", str(folder.path), "--results"]) == 0
    found = client.get_run(run_id)
    assert found.info.status == "KILLED"
    assert found.data.metrics["votes/win_rate"] == 0.5
    assert [each.step for each in client.get_metric_history(run_id, "votes/count")] == [3]
    assert {each.path for each in client.list_artifacts(run_id)} == {"votes.html", "votes.json"}
    assert not list(folder.path.glob("*spool*"))


def test_votes_that_mlflow_did_not_receive_are_sent_by_the_next_call(
    uri: str, client: "MlflowClient", tmp_path: Path
) -> None:
    record, spool = tmp_path / "run.json", tmp_path / "spool.jsonl"
    run_id = start_run(uri, "small", "mine", tags={}, params={}, record=record)
    record.write_text(json.dumps({"uri": "http://127.0.0.1:9", "run_id": run_id}))
    with pytest.raises(ConnectionError, match="was not completely sent"):
        log_afterwards(record, spool, {METRIC: 1.0}, 1, {})
    record.write_text(json.dumps({"uri": uri, "run_id": run_id}))
    assert log_afterwards(record, spool, {METRIC: 2.0}, 2, {"a.txt": "text"}) == 3
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, METRIC)] == [(1, 1.0), (2, 2.0)]
    assert log_afterwards(tmp_path / "none.json", spool, {METRIC: 1.0}, 1, {}) == 0
    record.write_text("{}")
    with pytest.raises(ValueError, match="expected the MLflow run and its address"):
        log_afterwards(record, spool, {METRIC: 1.0}, 1, {})
