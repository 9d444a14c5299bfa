"""Search effort of the arms, and the warning on ranges that were too narrow."""

from dataclasses import replace

from srpo_ray.evaluation.results import Results
from srpo_ray.evaluation.search_range import SearchedValue
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.report import Alert, Table
from srpo_ray.reports.search_effort import effort_table, end_warning, searches_section
from tests.unit.evaluation.test_comparison import run

LR = "training.optimizer.lr"
INSIDE = SearchedValue(LR, (1e-6, 1e-5), "log", 3e-6)
AT_END = SearchedValue(LR, (1e-6, 2e-6, 5e-6), "values", 5e-6)


def searched(report: Results, value: SearchedValue) -> Results:
    """SRPO has two trials of 100 calls and one that failed before its first evaluation; ReFL has no search."""
    failed = replace(run("SRPO_trial_2", 0, [0.5]), history=[], status="failed: out of memory")
    (search,) = report.searches
    return replace(report, searches=[replace(search, rows=[*search.rows, failed], searched=[value])])


def test_table_has_trials_range_and_chosen_value_of_each_method(report: Results) -> None:
    table = effort_table(searched(report, INSIDE))
    refl, srpo = ({column.key: row.cell(column.key).value for column in table.columns} for row in table.rows)
    assert srpo == {
        "method": "SRPO",
        "trials": 3,
        "stopped": 1,
        "calls": 200.0,
        "value": LR,
        "range": "1e-6 to 1e-5, log",
        "chosen": "3e-6",
        "end": "no",
    }
    assert (refl["method"], refl["trials"], refl["value"]) == ("ReFL", 0, "no search of its own")


def test_value_at_the_end_of_its_range_is_a_warning_under_the_headline(report: Results) -> None:
    narrow = searched(report, AT_END)
    warnings = [part.text for part in experiment_report(narrow).summary if isinstance(part, Alert) and part.warning]
    assert warnings == [
        f"Chosen at the end of the searched range, so a better value may lie beyond: SRPO, {LR} 5e-6 (searched: 1e-6,"
        " 2e-6, 5e-6). The range may be too narrow: widen it and search again."
    ]
    assert effort_table(narrow).rows[1].cell("end").value == "yes"
    assert end_warning(searched(report, INSIDE)) is None


def test_results_of_trials_are_listed_for_grids_only(report: Results) -> None:
    def tables(drawn: bool) -> int:
        results = replace(report, searches=[replace(report.searches[0], drawn=drawn)])
        section = searches_section(results)
        return 0 if section is None else sum(isinstance(part, Table) for part in section.parts)

    assert (tables(True), tables(False)) == (1, 2)
    assert searches_section(replace(report, searches=[])) is None


def test_a_sweep_has_the_effort_and_the_warning_too(sweep: Results) -> None:
    (search,) = sweep.searches
    made = experiment_report(replace(sweep, searches=[replace(search, searched=[AT_END])]))
    assert "How values were chosen" in [section.title for section in made.sections]
    assert any(isinstance(part, Alert) and "too narrow" in part.text for part in made.summary)
