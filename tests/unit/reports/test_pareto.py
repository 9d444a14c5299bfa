import re
from dataclasses import replace

from srpo_ray.evaluation.results import TRAINED_GAIN, TRAINED_REWARD, Results
from srpo_ray.reports.drawings import draw
from srpo_ray.reports.sweep_charts import pareto_chart, word_colors
from tests.unit.evaluation.conftest import with_rows

OBJECTIVE = "evaluator/held_out"


def pareto_figure(sweep: Results) -> str | None:
    chart = pareto_chart(sweep)
    return None if chart is None else draw(chart)


def test_figure_names_every_trial_the_base_and_the_hacking_quarter(sweep: Results):
    figure = pareto_figure(sweep)
    assert figure is not None
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    for name in ("t00", "t01", "t02", "t03", "t04", "t05", "relative_off", "baseline"):
        assert name in labels
    assert "t06" not in labels
    assert figure.count('class="front"') == 1
    assert 'class="danger"' in figure


def test_labels_do_not_lie_on_each_other(sweep: Results):
    rows = [replace(row, name=f"trial_{index:02d}") for index, row in enumerate(sweep.rows)]
    figure = pareto_figure(with_rows(sweep, rows, best="trial_01"))
    assert figure is not None
    places = [
        (float(x), float(y), len(name) * 6.6)
        for x, y, name in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="label[^>]*>([^<]*)<', figure)
    ]
    assert len(places) == 9
    for index, (x, y, width) in enumerate(places):
        for other_x, other_y, other_width in places[:index]:
            assert abs(y - other_y) >= 14 or x + width <= other_x or other_x + other_width <= x


def test_a_relative_run_whose_own_reward_rises_while_the_held_out_score_falls_is_in_the_hacking_quarter(
    sweep: Results,
):
    """Its plain score falls meanwhile, as it does in healthy runs too."""

    def history(held_out: float, plain: float, gain: float) -> list[dict[str, float]]:
        start = {"update": 0, OBJECTIVE: 0.5, TRAINED_REWARD: 1.0, TRAINED_GAIN: 0.0}
        return [start, {"update": 9, OBJECTIVE: held_out, TRAINED_REWARD: plain, TRAINED_GAIN: gain}]

    rows = [
        replace(sweep.rows[1], name="healthy", history=history(0.6, 0.95, 1.5)),
        replace(sweep.rows[2], name="hacked", history=history(0.4, 0.9, 2.5)),
    ]
    figure = pareto_figure(with_rows(sweep, rows, reward=TRAINED_GAIN, best="healthy"))
    assert figure is not None
    (left, top, width, height) = map(
        float,
        re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" class="danger"', figure)[0],
    )
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>(\w+):', figure)
    inside = [
        name
        for x, y, name in dots
        if name != "baseline" and left < float(x) < left + width and top < float(y) < top + height
    ]
    assert inside == ["hacked"]
    assert "own trained reward, in standard deviations" in figure


def test_without_reward_or_base_there_is_no_figure(sweep: Results):
    assert pareto_figure(replace(sweep, reward="no/such")) is None
    assert pareto_figure(with_rows(sweep, sweep.rows[:1])) is None


def test_each_set_of_control_words_has_a_colour_and_so_has_the_plain_query(sweep: Results):
    assert word_colors(sweep) == {"detailed": 0, "real": 1, "vivid": 2, "no words": 3}
    assert word_colors(with_rows(sweep, [])) == {}


def test_trials_are_compared_at_the_update_that_all_share_if_some_were_stopped(sweep: Results):
    """Both learn at one speed; the one that went on has gained twice as much by its end."""

    def trial(name: str, updates: int, slope: float, status: str):
        history = [{"update": u, OBJECTIVE: 0.4 + slope * u, "reward/preference": slope * u} for u in (0, 10, 20)]
        return replace(sweep.rows[1], name=name, history=history[: updates // 10 + 1], status=status)

    rows = [trial("slow", 20, 0.01, "finished"), trial("fast", 10, 0.015, "stopped early")]
    chart = pareto_chart(with_rows(sweep, [sweep.rows[0], *rows], best="slow"))
    assert chart is not None
    assert {dot.name: round(dot.y, 6) for dot in chart.dots} == {"slow": 0.5, "fast": 0.55}
    assert [(round(x, 6), round(y, 6)) for x, y in chart.front] == [(0.15, 0.55)]
    ended = [replace(row, status="finished") for row in rows]
    chart = pareto_chart(with_rows(sweep, [sweep.rows[0], *ended], best="slow"))
    assert chart is not None
    assert {dot.name: round(dot.y, 6) for dot in chart.dots} == {"slow": 0.6, "fast": 0.55}
