"""Search effort of the arms, and the warning on ranges that were too narrow."""

from dataclasses import replace

from srpo_ray.evaluation.results import Results
from srpo_ray.evaluation.search_range import SearchedValue
from srpo_ray.reports.experiment import experiment_report
from srpo_ray.reports.report import Alert, Table, Text
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


def test_values_that_widened_a_grid_are_shown_as_added(report: Results) -> None:
    (search,) = report.searches
    rates = (1e-6, 2e-6, 4e-6)
    rows = [
        replace(run(f"SRPO_trial_{index}", 0, [0.5, 0.6]), label=f"lr {rate}", params={LR: rate})
        for index, rate in enumerate(rates)
    ]
    value = SearchedValue(LR, rates, "values", 4e-6, added=[4e-6])
    widened = replace(
        report, searches=[replace(search, rows=rows, chosen="SRPO_trial_2", searched=[value], drawn=False)]
    )
    assert effort_table(widened).rows[1].cell("range").value == "1e-6, 2e-6; added: 4e-6"
    section = searches_section(widened)
    assert section is not None
    table = section.parts[-1]
    assert isinstance(table, Table)
    tried = table.rows[0].cell("tried").value
    assert isinstance(tried, Text)
    assert [str(span) for span in tried.spans if "(added)" in str(span)] == [str(tried.spans[-1])]
    warning = end_warning(widened)
    assert warning is not None
    assert f"SRPO, {LR} 4e-6 (searched: 1e-6, 2e-6; added: 4e-6; still at the end after 1 added)" in warning


def test_end_beyond_which_the_config_refuses_values_is_no_narrow_range(report: Results) -> None:
    limit = replace(AT_END, is_limit=True)
    assert end_warning(searched(report, limit)) is None
    assert effort_table(searched(report, limit)).rows[1].cell("end").value == "yes"


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
