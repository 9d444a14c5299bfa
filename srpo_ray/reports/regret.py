"""Section on regret: what each person, or each held-out model, loses by an arm that another one would not lose."""

from dataclasses import dataclass
from statistics import fmean

from srpo_ray.evaluation.comparison import gain
from srpo_ray.evaluation.crossed import Estimate
from srpo_ray.evaluation.numbers import gain_text, number
from srpo_ray.evaluation.results import Arm, Results
from srpo_ray.reports.footnotes import interval_note
from srpo_ray.reports.report import Cell, Column, Row, Section, Table, Text

PEOPLE = "truth/utility/test/"


@dataclass(frozen=True)
class Regret:
    """Gains of one arm for every person, and what is missing to the best arm for each."""

    gains: dict[str, Estimate]
    """Metric -> gain over the baseline."""
    missing: dict[str, float]
    """Metric -> gain of the best arm for this person minus the arm's own, 0 or more; the baseline is an arm too."""

    @property
    def mean(self) -> float:
        """Mean regret over the people."""
        return fmean(self.missing.values())

    @property
    def largest(self) -> float:
        """Regret of the person who loses most."""
        return max(self.missing.values())


def regret_section(report: Results) -> Section | None:
    """Gains of every method for every person and the regret; None with fewer than two people or two methods."""
    found = regrets(report)
    if not found:
        return None
    people = list(next(iter(found.values())).gains)
    columns = [
        Column("arm", "method", numeric=False),
        *(Column(metric, metric.rsplit("/", 1)[-1], hint=metric) for metric in people),
        Column("mean", "mean regret", number),
        Column("largest", "largest regret", number),
    ]
    rows = [Row({"arm": "baseline", **_baseline(found)})]
    rows += [
        Row({"arm": arm, **_cells(regret), "mean": regret.mean, "largest": regret.largest})
        for arm, regret in found.items()
    ]
    text = Text(
        "Gain of the utility of each person over the baseline. The regret of a method for a person is the gain of the"
        " best method for this person minus its own, so it is 0 if nothing else serves that person better. The best of"
        " several is chosen by its measured gain, so a regret that is small beside the intervals may be chance. "
        + interval_note(estimate for regret in found.values() for estimate in regret.gains.values())
    )
    return Section("Whom a choice serves", [text, Table(columns, rows, head="arm")])


def regrets(report: Results) -> dict[str, Regret]:
    """Regret of each method; empty with fewer than two people or two methods.

    People are the simulated ones of the small world. Without them, every held-out model stands for a person.
    """
    people = _people(report)
    gains = {arm.name: _gains(report, arm, people) for arm in report.methods}
    gains = {name: found for name, found in gains.items() if len(found) == len(people)}
    if len(people) < 2 or len(gains) < 2:
        return {}
    best = {name: max(0.0, *(found[name].mean for found in gains.values())) for name in people}
    return {
        arm: Regret(found, {name: best[name] - found[name].mean for name in people}) for arm, found in gains.items()
    }


def _people(report: Results) -> list[str]:
    names = {name for arm in report.methods for row in arm.rows for each in row.history for name in each}
    simulated = sorted(name for name in names if name.startswith(PEOPLE) and not name.endswith("/mean"))
    models = sorted(name for name in names if name.startswith("evaluator/") and name.count("/") == 1)
    return simulated or (models if report.mode == "max" else [])


def _gains(report: Results, arm: Arm, people: list[str]) -> dict[str, Estimate]:
    found = {name: gain(report, arm.ended, name) for name in people} if arm.ended else {}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _baseline(found: dict[str, Regret]) -> dict[str, float | Cell]:
    any_arm = next(iter(found.values()))
    missing = {name: any_arm.missing[name] + any_arm.gains[name].mean for name in any_arm.gains}
    cells: dict[str, float | Cell] = {name: Cell("0", f"regret {number(value)}") for name, value in missing.items()}
    return {**cells, "mean": fmean(missing.values()), "largest": max(missing.values())}


def _cells(regret: Regret) -> dict[str, Cell]:
    return {
        name: Cell(gain_text(estimate), f"regret {number(regret.missing[name])}")
        for name, estimate in regret.gains.items()
    }
