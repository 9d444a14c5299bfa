"""Ballots from folders of runs, experiments and evaluations; export; results on the command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from srpo_ray.cli import main
from srpo_ray.config import load_run
from srpo_ray.data.pairs import load_judged
from srpo_ray.data.prompt_rows import PromptRows
from srpo_ray.data.texts import read_texts
from srpo_ray.files import write_text
from srpo_ray.runs.folder import RunFolder, append_row
from srpo_ray.runs.inputs import text_hashes
from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.export import export_pairs
from srpo_ray.votes.ledger import Choice, Vote, open_ledger, read_votes
from srpo_ray.votes.sources import open_ballot
from tests.helpers.ballots import METRIC, write_run


def votes_on(ballot: Ballot, choices: dict[tuple[int, str], str], rater: str = "Ada") -> list[Vote]:
    """Votes by (prompt index, other system): for that system, for `base`, or `tie`; the base model is on the left."""
    votes = []
    for pair in ballot.pairs:
        item = ballot.items[pair.item]
        other = next((name for name in pair.systems if name != "base"), "")
        if "base" not in pair.systems or (item.prompt_index, other) not in choices:
            continue
        answer = choices[item.prompt_index, other]
        choice: Choice = "tie" if answer == "tie" else "left" if answer == "base" else "right"
        votes.append(
            Vote(
                id=f"{rater}{len(votes)}",
                time="2030-01-01T00:00:00+00:00",
                rater=rater,
                item=item.key,
                prompt_index=item.prompt_index,
                prompt=item.prompt,
                left="base",
                right=other,
                left_image=ballot.images["base", item.key].digest,
                right_image=ballot.images[other, item.key].digest,
                choice=choice,
            )
        )
    return votes


def write_experiment(folder: Path) -> None:
    """Two finished trials on one noise, a finished arm on another, and a trial that has not finished."""
    write_text(folder / "experiment.yaml", "")
    write_run(folder / "trials" / "trial_0", "trial_0", {"base": 0.1, "tuned": 0.3})
    write_run(folder / "trials" / "trial_1", "trial_1", {"base": 0.1, "tuned": 0.5})
    write_run(folder / "trials" / "arm", "arm", {"base": 0.2, "tuned": 0.6}, seed=8)
    write_run(folder / "trials" / "trial_2", "trial_2", {"base": 0.1, "tuned": 0.7}).finished.unlink()


def test_run_has_pairs_of_base_and_tuned_with_the_scores_of_the_very_images(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "mine", {"base": 0.1, "tuned": 0.3})
    # The images are those of the latest evaluation.
    append_row(run.scores, {"update": 2, "num_prompts": 8, "scores": {METRIC: [9.0] * 8}})
    ballot = open_ballot(run.path)
    assert (list(ballot.systems), len(ballot.pairs)) == (["base", "tuned"], 3)
    assert {item.prompt_index for item in ballot.items.values()} == {0, 1, 2}
    key = next(key for key, item in ballot.items.items() if item.prompt_index == 2)
    assert ballot.scores[METRIC]["base", key] == pytest.approx(0.1 + 2 / 50)
    assert ballot.scores[METRIC]["tuned", key] == 9.0
    assert ballot.images["tuned", key].load().getpixel((0, 0)) == (round(255 * (0.3 + 2 / 50)),) * 3


def test_runs_of_an_experiment_are_compared_on_the_same_noise_only(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    ballot = open_ballot(tmp_path)
    assert list(ballot.systems) == ["base", "arm", "trial_0", "trial_1"]
    compared = {pair.systems for pair in ballot.pairs}
    assert compared == {("arm", "base"), ("base", "trial_0"), ("base", "trial_1"), ("trial_0", "trial_1")}
    # Three prompts on each of two noises.
    assert (len(ballot.items), len(ballot.pairs)) == (6, 12)
    assert ballot.notes == ["left out because they have not finished: trial_2"]
    assert list(open_ballot(tmp_path, ["trial_0"]).systems) == ["base", "trial_0"]
    with pytest.raises(ValueError, match=r"--runs: expected names .*trial_0.*got trial_9"):
        open_ballot(tmp_path, ["trial_9"])


@pytest.mark.parametrize("setting", ["rollout.shift=1.5", "model.truncate_sigma=true", "model.max_sequence_length=24"])
def test_runs_with_another_sampler_have_base_images_of_their_own(tmp_path: Path, setting: str) -> None:
    write_text(tmp_path / "experiment.yaml", "")
    write_run(tmp_path / "trials" / "a", "a", {"base": 0.1, "tuned": 0.3})
    write_run(tmp_path / "trials" / "b", "b", {"base": 0.2, "tuned": 0.5}, overrides=[setting])
    ballot = open_ballot(tmp_path)
    assert list(ballot.systems) == ["base", "a", "b"]
    assert {pair.systems for pair in ballot.pairs} == {("a", "base"), ("b", "base")}
    for system, shade in (("a", 0.1), ("b", 0.2)):
        shown = [ballot.images["base", pair.item].load() for pair in ballot.pairs if system in pair.systems]
        assert {image.getpixel((0, 0)) for image in shown} == {(round(255 * (shade + n / 50)),) * 3 for n in range(3)}


def test_votes_under_the_former_keys_count_where_both_of_their_images_are_there(tmp_path: Path) -> None:
    write_text(tmp_path / "experiment.yaml", "")
    write_run(tmp_path / "trials" / "a", "a", {"base": 0.1, "tuned": 0.3})
    write_run(tmp_path / "trials" / "b", "b", {"base": 0.2, "tuned": 0.5}, overrides=["rollout.shift=1.5"])
    ballot = open_ballot(tmp_path)
    votes = votes_on(ballot, {(index, system): system for index in range(3) for system in ("a", "b")})
    old = [vote.model_copy(update={"item": ballot.items[vote.item].former}) for vote in votes]
    assert len(votes) == 6
    assert {vote.item for vote in old}.isdisjoint(vote.item for vote in votes)
    assert ballot.current(old) == votes
    # The former key did not tell the samplers apart: such a vote was on the base image of another run.
    base = {vote.prompt_index: vote.left_image for vote in votes if vote.right == "a"}
    mixed = [vote.model_copy(update={"left_image": base[vote.prompt_index]}) for vote in old if vote.right == "b"]
    assert ballot.current(mixed) == []


def test_base_model_with_a_lora_to_start_from_is_another_base_model(tmp_path: Path) -> None:
    write_text(tmp_path / "experiment.yaml", "")
    write_run(tmp_path / "trials" / "a", "a", {"base": 0.1, "tuned": 0.3})
    lora = ["model.lora={start_from: runs/first}"]
    write_run(tmp_path / "trials" / "b", "b", {"base": 0.2, "tuned": 0.5}, overrides=lora)
    assert list(open_ballot(tmp_path).systems) == ["base", "base (runs/first)", "a", "b"]


def test_images_of_an_evaluation_are_compared_by_prompt_and_sample(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt_index", "prompt", "conditioning", "sample", "model", "image", METRIC])
        for sample in range(2):
            for place, model in enumerate(("base", "tuned")):
                name = f"{sample}_{model}.png"
                Image.new("RGB", (4, 4), (50 * place, sample, 0)).save(tmp_path / name)
                writer.writerow([0, "'-a cat", "A fluffy cat.", sample, model, name, place + sample / 10])
    ballot = open_ballot(tmp_path)
    assert len(ballot.pairs) == 2
    assert {item.prompt for item in ballot.items.values()} == {"-a cat"}
    assert sorted(ballot.scores[METRIC].values()) == [0.0, 0.1, 1.0, 1.1]


def test_folder_without_two_systems_or_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder of a run, of an experiment"):
        open_ballot(tmp_path)
    same = write_run(tmp_path / "same", "same", {"base": 0.2, "tuned": 0.2})
    with pytest.raises(ValueError, match="expected images of the same prompts that differ"):
        open_ballot(same.path)
    same.tuned_images.write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="damaged file"):
        open_ballot(same.path)
    same.tuned_images.unlink()
    with pytest.raises(ValueError, match="expected images of evaluations"):
        open_ballot(same.path)


def test_score_that_is_no_number_is_refused_with_its_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "mine", {"base": 0.1, "tuned": 0.3})
    append_row(run.scores, {"update": 2, "num_prompts": 8, "scores": {METRIC: ["x"] * 8}})
    with pytest.raises(ValueError, match=rf"expected numbers as scores of {METRIC} in {run.scores}, got 'x'"):
        open_ballot(run.path)


def test_row_of_an_evaluation_that_is_cut_off_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("model,prompt_index,sample,image,prompt\nbase,0,0,a.png,A cat.\ntuned,0,0\n")
    with pytest.raises(ValueError, match=r"in every row of .*rows\.csv, got fewer in line 3"):
        open_ballot(tmp_path)


def test_prompts_that_have_changed_since_the_images_were_drawn_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "mine", {"base": 0.1, "tuned": 0.3})
    config = load_run([run.config])
    texts = read_texts(config)
    run.inputs.write_text(json.dumps(text_hashes(config, texts)))
    assert len(open_ballot(run.path).pairs) == 3
    changed = text_hashes(config, replace(texts, validation=PromptRows.plain(["another", *texts.evaluated[1:]])))
    run.inputs.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"evaluation.prompts: .*expected the content that .* was started with"):
        open_ballot(run.path)


def test_export_has_a_line_per_vote_with_labels_and_its_images(tmp_path: Path) -> None:
    ballot = open_ballot(write_run(tmp_path / "run", "mine", {"base": 0.1, "tuned": 0.3}).path)
    votes = votes_on(ballot, {(0, "tuned"): "tuned", (1, "tuned"): "base", (2, "tuned"): "tie"})
    votes += votes_on(ballot, {(0, "tuned"): "base"}, rater="Bo")
    file = tmp_path / "out" / "pairs.jsonl"
    assert export_pairs(file, ballot, votes) == 3
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["label_0"], row["label_1"]) for row in rows] == [(0, 1), (1, 0), (1, 0)]
    assert [row["strength"] for row in rows] == [0.5, 1.0, 0.5]
    first = rows[0]
    assert (first["preferred"], first["other"]) == (first["image_1"], first["image_0"])
    assert (first["system_1"], first["annotator"], first["prompt"]) == ("tuned", "Ada", votes[0].prompt)
    with Image.open(file.parent / first["preferred"]) as preferred:
        assert preferred.getpixel((0, 0)) == (round(255 * 0.3),) * 3
    assert export_pairs(file, ballot, votes, ties=True) == 4
    tie = json.loads(file.read_text().splitlines()[2])
    assert (tie["confidence"], tie["label_0"], tie["label_1"]) == (0, 0.5, 0.5)
    # The file is one for `data.pairs`: the tie is left out, and pictures are listed once.
    judged = load_judged(str(file), "pairs")
    assert judged.note is not None
    assert "3 pairs of 2 annotators, 4 images, 1 tie left out" in judged.note
    assert [judged.names[row.images[0]] for row in judged.rows] == [row["preferred"] for row in rows]
    with pytest.raises(ValueError, match="expected votes with a preference"):
        export_pairs(file, ballot, votes[2:3])


def test_results_are_printed_and_written_with_their_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_experiment(tmp_path)
    ballot = open_ballot(tmp_path)
    choices = {(prompt, name): name for prompt in range(3) for name in ("trial_1", "arm")}
    choices |= {(prompt, "trial_0"): "base" for prompt in range(3)}
    with open_ledger(tmp_path) as ledger:
        for each in votes_on(ballot, choices):
            ledger.append(each)
    assert main(["vote", str(tmp_path), "--results", "--token", "geheim"]) == 0
    printed = capsys.readouterr().out
    assert "12 votes" not in printed
    assert f"report: {tmp_path}/votes.html" in printed
    page, values = (tmp_path / "votes.html").read_text(), json.loads((tmp_path / "votes.json").read_text())
    assert "srpo-ray vote" in page
    assert "geheim" not in page
    assert "Which metric agrees with the votes" in page
    assert [each["system"] for each in values["strengths"]][-1] == "trial_0"
    # The metric is higher for the tuned images, which won six of nine votes.
    assert values["proxies"][0]["agreement"]["rate"] == pytest.approx(6 / 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "expected the folder of a run"),
        (["RUN", "--repeats", "2"], "--repeats: expected a share from 0 to 1, got 2"),
        (["RUN", "--metric", "evaluator/x"], "--metric: expected metrics of the evaluation"),
        (["RUN", "--export", "pairs.jsonl"], "expected votes with a preference"),
        (["DAMAGED", "--results"], "damaged line 1"),
        (["RUN", "--port", "99999"], "expected a free port"),
        (["RUN", "--runs", "another"], "--runs: expected no names for the folder of a run, got another"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    runs: dict[str, RunFolder] = {
        name: write_run(tmp_path / name, name, {"base": 0.1, "tuned": 0.3}) for name in ("RUN", "DAMAGED")
    }
    (runs["DAMAGED"].path / "votes.jsonl").write_text("nothing\n")
    assert main(["vote", *arguments]) == 2
    assert message in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not (tmp_path / "pairs.jsonl").exists()
    assert not (runs["RUN"].path / "votes.jsonl").exists()


def test_results_without_votes_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", "mine", {"base": 0.1, "tuned": 0.3})
    assert main(["vote", str(run.path), "--results"]) == 0
    assert "no votes yet" in capsys.readouterr().out
    assert read_votes(run.path) == []
