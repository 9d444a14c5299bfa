import math
import random
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from srpo_ray.evaluation.gallery import before_after, save_png
from srpo_ray.evaluation.numbers import gain_text
from srpo_ray.evaluation.results import OWN_WORDS, TRAINED_GAIN, Results
from srpo_ray.evaluation.reward_hacking import HackingSign
from srpo_ray.reports import sweep as sweep_module
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.headline import headline, repeated
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Bars, Section
from tests.unit.evaluation.conftest import with_rows

OBJECTIVE, REWARD = "evaluator/held_out", "reward/preference"


class Page(HTMLParser):
    """Tags with their attributes, and the cells of the table of all runs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def html(sweep: Results) -> str:
    return page_text(experiment_report(sweep))


def page(sweep: Results) -> Page:
    return Page(html(sweep))


def with_galleries(sweep: Results, tmp_path: Path) -> Results:
    images = torch.rand(2, 3, 64, 64)
    path = save_png(before_after(images, images, ["one", "two"]), tmp_path / "gallery.png")
    return with_rows(sweep, [replace(row, gallery=path) for row in sweep.rows])


def test_page_loads_nothing_from_anywhere(sweep: Results, tmp_path: Path):
    text = html(with_galleries(sweep, tmp_path))
    loads = [
        value
        for _, attributes in Page(text).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert len(loads) == 2
    assert all(load is not None and load.startswith("data:image/png;base64,") for load in loads)
    assert not re.search(r"https?:|url\(|@import|<link|\bfetch\(|import\s*\(", text)


def test_every_run_and_section_is_there(sweep: Results, tmp_path: Path):
    found = page(with_galleries(sweep, tmp_path))
    for row in sweep.rows:
        assert row.name in found.text
        assert row.label in found.text
    headings = [
        *("All runs", "Baseline and best", "Trained reward against held-out score", "Over updates"),
        *("Which parameter mattered", "Ablations of the best", "Parameter by parameter"),
        *("What the metrics mean", "Run it again"),
    ]
    places = [found.text.index(heading) for heading in headings]
    assert places == sorted(places)
    assert sweep.command in found.text
    assert sweep.best_config_yaml in found.text
    assert str(sweep.commit) in found.text


def test_ranks_stand_in_order_of_the_objective(sweep: Results):
    text = html(sweep)
    rows = re.findall(r'<td class="text short" data-sort="[^"]*">([^<]*)</td>\s*<td[^>]*sticky[^>]*><b>(.*?)</b>', text)
    assert [name for rank, name in rows if rank.isdigit()] == ["t00", "t04", "t01", "t03", "t02", "t05"]
    assert [rank for rank, _ in rows if rank.isdigit()] == ["1", "2", "3", "4", "5", "6"]


def test_sorting_by_rank_gives_the_first_order_back(sweep: Results):
    """Rows without a rank of their own stand where their value puts them."""
    keys = re.findall(r'<tr class="[^"]+">\s*<td class="text short" data-sort="(\d*)">', html(sweep))
    assert keys == [str(place) for place in range(len(sweep.rows))]


def test_headline_names_winner_seeds_and_signs(sweep: Results):
    found = page(sweep)
    # 12.706 x 0.0085 / sqrt(2) over two fresh seeds
    assert (
        "t00 won. With 2 fresh seeds it moves evaluator/held_out by +0.0750 ± 0.0762 from the baseline." in found.text
    )
    assert "mean of 2 fresh seeds (+0.0750 ± 0.0762)" in found.text
    assert "Reward hacking detected in one run" in found.text
    assert "t02 (from update 30: evaluator/held_out, image/contrast)" in found.text
    assert "baseline 0.9530 (-0.0120)" in found.text


def test_trained_reward_is_stated_in_standard_deviations_of_each_runs_own(sweep: Results):
    gains = {"t00": 1.83, "t01": 0.4}
    rows = [
        replace(row, history=[{**each, TRAINED_GAIN: gains.get(row.name, 0.2) * each["update"] / 60, OWN_WORDS: 0.1}
                              for each in row.history])
        for row in sweep.rows
    ]  # fmt: skip
    text = page(with_rows(sweep, rows, reward=TRAINED_GAIN)).text
    assert "+1.83 sd" in text
    assert "in standard deviations over the baseline's images" in text
    assert "gain (sd)" in text
    assert "reward/total/trained over updates" not in html(sweep)


def test_a_run_with_signs_of_hacking_is_marked_in_table_curves_and_plot(sweep: Results):
    text = html(sweep)
    assert "update 30, again at 45: the held-out score fell at 30" in text
    assert "the contrast moved at 45" in text
    assert re.findall(r'<tr class="([^"]*flagged)">.*?<b>(.*?)</b>', text, re.DOTALL) == [("trial flagged", "t02")]
    assert 'data-sort="hacking">hacking<' in text
    assert re.findall(r'class="curve flagged"><title>(\w+)', text)[0] == "t02"
    assert re.findall(r'class="c\d flagged"><title>(\w+)', text) == ["t02"]
    calm = with_rows(sweep, [replace(row, signs=()) for row in sweep.rows])
    assert "flagged" not in html(calm).partition("</style>")[2]


def test_hostile_texts_stay_texts(sweep: Results):
    evil = "</title></script><script>alert('x')</script><img src=x onerror=\"alert(1)\"> {{ 7 * 7 }} & ' \""
    rows = [
        replace(row, label=evil, status=evil, signs=[HackingSign(1, "style", evil, evil)] * (index % 2))
        for index, row in enumerate(sweep.rows)
    ]
    rows[1] = replace(rows[1], name=evil, params={"algorithm.control_words": evil, evil: 1.0})
    history = [{**evaluation, evil: 1.0} for evaluation in rows[1].history]
    rows[1] = replace(rows[1], history=history)
    changed = with_rows(
        sweep,
        rows,
        best=evil,
        title=evil,
        command=evil,
        best_config_yaml=evil,
        notes=[evil],
        hardware=evil,
    )
    found = page(changed)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "49" not in found.text.partition("Run it again")[2]
    assert evil in found.text


def test_no_trial_beat_the_base(sweep: Results):
    lone = with_rows(sweep, [sweep.rows[0], sweep.rows[3]], best="t02")
    assert headline(lone) == "No trial beat the baseline. The closest was t02, 0.0510 worse."
    assert "no baseline" in headline(
        with_rows(sweep, [replace(sweep.rows[1], history=[{"update": 60, OBJECTIVE: 1.0}])])
    )


def test_the_picked_run_is_left_out_of_the_spread(sweep: Results):
    seeds = repeated(sweep, sweep.objective)
    assert seeds is not None
    assert (seeds.num_seeds, seeds.mean, seeds.spread) == (
        2,
        pytest.approx(0.075),
        pytest.approx(0.00849, rel=1e-2),
    )
    one = repeated(with_rows(sweep, [row for row in sweep.rows if row.name != "best_seed_2"]), sweep.objective)
    assert one is not None
    assert gain_text(one) == "+0.0690"


def many_trials(sweep: Results, count: int) -> Results:
    """Words decide the score, the learning rate does nothing; every other trial was stopped at update 30."""
    source = random.Random(0)
    rows = [sweep.rows[0]]
    for index in range(count):
        words, lr = source.choice(["detailed", "real", "vivid"]), 10 ** source.uniform(-6, -5)
        slope = {"detailed": 1.0, "real": 0.5, "vivid": 0.0}[words] + source.gauss(0, 0.05)
        updates = 30 if index % 2 else 60
        rows.append(
            replace(
                sweep.rows[1],
                name=f"t{index:02d}",
                params={"algorithm.control_words": words, "training.optimizer.lr": lr},
                history=[{"update": step, OBJECTIVE: slope * step} for step in range(0, updates + 1, 15)],
                status="finished" if updates == 60 else "stopped early",
            )
        )
    return with_rows(sweep, rows, best="t00")


def test_few_trials_have_no_bars_and_the_report_says_why(sweep: Results):
    text = html(many_trials(sweep, 19))
    assert "No shares are shown: 19 trials can be compared, and 20 are needed" in text
    assert 'class="bars"' not in text


def test_bars_compare_stopped_and_finished_trials_at_one_update_with_a_chance_beside_each(sweep: Results):
    text = html(many_trials(sweep, 24))
    assert "24 trials after update 30" in text
    bars = re.findall(r'class="value">(\d+)%, p ([\d.]+)<', text)
    assert float(bars[0][0]) > 90, "at their own last updates stopped trials have half of the others' values"
    assert float(bars[0][1]) == 0.001
    assert float(bars[1][1]) > 0.05
    assert "of each trial after update 30" in text
    assert "2 tests: gray where the share may be chance after Holm's correction" in unescape(text)
    assert "at 30" in text


def test_a_bar_is_gray_where_its_share_is_chance_among_all_parameters(sweep: Results, monkeypatch: pytest.MonkeyPatch):
    """Alone p-values of 0.03 and 0.04 would count; Holm's method asks 0.025 of the smaller of two."""
    chances = iter((0.03, 0.04))
    monkeypatch.setattr(sweep_module, "permutation_p", lambda *_: next(chances))
    section = sweep_module.importance(many_trials(sweep, 24))
    assert section is not None
    (bars,) = [part for part in section.parts if isinstance(part, Bars)]
    assert [bar.faint for bar in bars.bars] == [True, True]


def test_seeds_section_states_mean_and_spread_of_truth_too(sweep: Results):
    text = page(sweep).text.partition("fresh seeds")[2]
    # 12.706 x 0.0028 / sqrt(2)
    assert re.search(r"0\.0610\s+\+0\.0298\s*± 0\.0254\s+0\.0028", text)
    without = with_rows(sweep, [row for row in sweep.rows if row.kind != "repeat"])
    assert "The best again" not in page(without).text


def test_ablations_show_what_changed_and_by_how_much(sweep: Results):
    text = page(sweep).text.partition("Ablations of the best")[2]
    assert "algorithm.query = plain" in text
    assert "algorithm.timestep_window = 30-49" in text
    assert "-0.0470" in text


def test_ablations_are_compared_with_the_mean_of_the_repeats_by_students_t(sweep: Results):
    """Repeats of 0.480, 0.487, 0.494: 4.303 x 0.007 x sqrt(1 + 1/3) = 0.0348 around 0.487."""
    repeats = iter((0.480, 0.487, 0.494))
    rows = [*sweep.rows, replace(sweep.rows[8], name="best_seed_3", seed=3)]
    rows = [
        replace(row, history=[*row.history[:-1], {**row.history[-1], OBJECTIVE: next(repeats)}])
        if row.kind == "repeat"
        else row
        for row in rows
    ]
    text = html(with_rows(sweep, rows))
    assert re.search(r'<td class=" unclear">0.4790<span class="note">-0.0080 ± 0.0348</span>', text)
    assert re.search(r'<td class=" unclear">0.4400<span class="note">-0.0470 ± 0.0348</span>', text)
    assert "the mean of 3 repeats" in text


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_repeats_give_no_decision(count: int, sweep: Results):
    repeats = [row for row in sweep.rows if row.kind == "repeat"][:count]
    rows = [row for row in sweep.rows if row.kind != "repeat"] + repeats
    text = html(with_rows(sweep, rows))
    assert "No difference is tested" in text
    assert "clear" not in text.partition("Ablations of the best")[2].partition("</table>")[0]


def one_trial(sweep: Results) -> Results:
    return with_rows(sweep, [sweep.rows[1]], notes=[])


def no_rows(sweep: Results) -> Results:
    return with_rows(sweep, [], best="")


def all_failed(sweep: Results) -> Results:
    return with_rows(sweep, [replace(row, status="failed: out of memory", history=[]) for row in sweep.rows[1:4]])


def nan_everywhere(sweep: Results) -> Results:
    history = [
        {"update": 0, OBJECTIVE: math.nan, REWARD: math.inf},
        {"update": 15, OBJECTIVE: math.nan, REWARD: 1.0},
    ]
    return with_rows(sweep, [replace(row, history=history) for row in sweep.rows])


def gap_in_the_middle(sweep: Results) -> Results:
    row = sweep.rows[1]
    history = [
        {**evaluation, OBJECTIVE: math.nan if index == 2 else 0.1} for index, evaluation in enumerate(row.history)
    ]
    return with_rows(sweep, [sweep.rows[0], replace(row, history=history)])


def other_metrics(sweep: Results) -> Results:
    """As with real FLUX: other names, no truth, no control words."""
    rows = [
        replace(
            row,
            params={"training.optimizer.lr": 1e-6 * (index + 1)},
            history=[
                {"update": step, "evaluator/pick": 20 + 0.1 * index * step, "reward/hps": 0.2 + index * step / 100}
                for step in (0, 100)
            ],
        )
        for index, row in enumerate(sweep.rows)
    ]
    return with_rows(sweep, rows, objective="evaluator/pick", reward="reward/hps", commit=None)


def only_objective(sweep: Results) -> Results:
    rows = [replace(row, history=[{"update": 60, OBJECTIVE: 0.1 * index}]) for index, row in enumerate(sweep.rows)]
    return with_rows(sweep, rows)


def missing_gallery(sweep: Results) -> Results:
    return with_rows(sweep, [replace(row, gallery=Path("/no/such.png")) for row in sweep.rows])


def smaller_is_better(sweep: Results) -> Results:
    return with_rows(sweep, sweep.rows, best="t02", mode="min")


@pytest.mark.parametrize(
    "change",
    [
        *(one_trial, no_rows, all_failed, nan_everywhere, gap_in_the_middle),
        *(other_metrics, only_objective, missing_gallery, smaller_is_better),
    ],
)
def test_whatever_is_missing_a_page_comes_out(change, sweep: Results):
    changed = change(sweep)
    text = html(changed)
    found = Page(text)
    for row in changed.rows:
        assert row.name in found.text
    assert "Run it again" in found.text
    assert not re.search(r'"(-?nan|-?inf)', text)
    assert "None" not in found.text


def test_votes_stand_before_the_meanings_of_the_metrics(sweep: Results) -> None:
    report = experiment_report(sweep, votes=[Section("Votes", []), Section("People", [])])
    titles = [section.title for section in report.sections]
    first = titles.index("Votes")
    assert titles[first : first + 3] == ["Votes", "People", "What the metrics mean"]
    assert titles[-1] == "Run it again"
