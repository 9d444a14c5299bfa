"""Section on side effects at equal gain."""

from dataclasses import replace

from srpo_ray.evaluation.results import Results
from srpo_ray.reports.charts import Curves
from srpo_ray.reports.equal_gain import equal_gain_section
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.html import page_text
from srpo_ray.reports.report import Charts, Table
from tests.unit.evaluation.test_comparison import HELD_OUT
from tests.unit.evaluation.test_equal_gain import SATURATION
from tests.unit.evaluation.test_equal_gain import arm as arm
from tests.unit.evaluation.test_equal_gain import two_speeds as two_speeds


def test_section_has_each_arm_at_each_gain_and_a_curve_per_arm(two_speeds: Results) -> None:
    section = equal_gain_section(two_speeds)
    assert section is not None
    text, table, note, charts = section.parts
    assert isinstance(table, Table)
    assert [(row.cell("arm").value, round(row.cell("gain").value, 6)) for row in table.rows] == [
        *(("SRPO", 0.1), ("ReFL", 0.1), ("SRPO", 0.2), ("ReFL", 0.2))
    ]
    cell = table.rows[3].cell(SATURATION)
    assert (round(cell.value, 6), cell.note, cell.style) == (-0.1, "± 0.0025", "clear")
    assert "The table makes 2 tests" in str(note)
    assert HELD_OUT in str(text)
    assert isinstance(charts, Charts)
    (chart,) = charts.charts
    assert isinstance(chart, Curves)
    assert [line.name for line in chart.lines] == ["SRPO", "ReFL"]
    assert "Side effects at equal gain" in page_text(experiment_report(two_speeds))


def test_ablations_are_compared_with_the_reference_in_a_table_of_their_own(two_speeds: Results) -> None:
    late = arm("late", [0.0, 0.1, 0.3], -2.0, "ablation")
    section = equal_gain_section(replace(two_speeds, arms=[*two_speeds.arms, late]))
    assert section is not None
    tables = [part for part in section.parts if isinstance(part, Table)]
    assert [[row.cell("arm").value for row in table.rows[:2]] for table in tables] == [
        ["SRPO", "ReFL"],
        ["SRPO", "late"],
    ]


def test_a_named_metric_that_cannot_be_compared_is_reported(two_speeds: Results) -> None:
    section = equal_gain_section(replace(two_speeds, equal_gain=("truth/typo", HELD_OUT)))
    assert section is not None
    assert str(section.parts[0]).startswith("truth/typo: no two arms gain enough")
    assert len([part for part in section.parts if isinstance(part, Table)]) == 1
    assert equal_gain_section(replace(two_speeds, arms=two_speeds.arms[:1])) is None
