"""The report of a vote: who wins, how far people agree, and which proxy to trust."""

from collections.abc import Sequence
from dataclasses import asdict
from math import exp
from typing import Any

from srpo_ray.evaluation.numbers import number
from srpo_ray.reports.charts import Curves, Interval, Intervals, Line
from srpo_ray.reports.report import (
    Alert,
    Card,
    Cards,
    Cell,
    Charts,
    Code,
    Column,
    Part,
    Report,
    Row,
    Section,
    Strong,
    Table,
    Text,
)
from srpo_ray.votes.intervals import MANY_RATERS, Share
from srpo_ray.votes.proxies import Proxy
from srpo_ray.votes.results import Duel, VoteResults
from srpo_ray.votes.strengths import Strength

PAGE, JSON = "votes.html", "votes.json"
"""Names of the report's files."""
_CURVES = 6
"""Proxies with a calibration plot."""


def votes_report(results: VoteResults) -> Report:
    """Build the report of a vote."""
    duels, proxies, people = duels_table(results), proxies_table(results), raters_table(results)
    tables = [strengths_table(results), duels] if len(results.strengths) > 2 else [duels]
    sections = [*votes_sections(results), Section("Run it again", [Code(results.command)])]
    return Report(
        title=f"Votes: {results.title}",
        headline=headline(results),
        sections=sections if results.command else sections[:-1],
        subtitle=f"{results.title} · {results.created}",
        summary=[Cards(_cards(results)), *map(Alert, _notes(results))],
        page=PAGE,
        files={JSON: asdict(results)},
        terminal=[*tables, *([proxies] if results.proxies else []), people],
    )


def headline(results: VoteResults) -> str:
    """The result in a sentence."""
    if not results.votes:
        return "No votes yet"
    if len(results.duels) == 1:
        duel = results.duels[0]
        rate = duel.rate
        verb = "wins against" if rate.low > 0.5 else "loses to" if rate.high < 0.5 else "is not clearly told from"
        return f"{duel.system} {verb} {duel.other}: {share_text(rate)} of {_count(rate.votes, 'vote')}"
    best = results.best
    assert best is not None
    others = [each for each in results.strengths if each.system == results.reference]
    if best.system == results.reference or (others and best.low <= 0):
        return f"No system is clearly better than {results.reference}; {best.system} is the strongest in the votes"
    chance = round(100 * best.win_chance)
    return f"{best.system} is the strongest: it wins {chance}% of pairs against {results.reference}"


def votes_sections(results: VoteResults) -> list[Section]:
    """Sections on the votes, for their own report and for that of their experiment."""
    if not results.votes:
        return []
    return [*_systems(results), *_proxies(results), _people(results)]


def _systems(results: VoteResults) -> list[Section]:
    duels = Section("Win rates in the votes", [_duels_text(results), _duels_chart(results), duels_table(results)])
    if len(results.strengths) < 3:
        return [duels]
    text = Text(
        "Bradley-Terry model of all votes: the log-odds that a system wins against ",
        Strong(results.reference),
        ", which has 0, with 95% intervals over prompts. A vote without a preference counts half for each.",
    )
    rows = [Interval(each.system, each.value, each.low, each.high, _strength_text(each)) for each in results.strengths]
    chart = Charts([Intervals("", "Strengths of all systems with 95% intervals", rows)], size="wide")
    return [Section("Strengths in the votes", [text, chart, strengths_table(results)]), duels]


def _duels_text(results: VoteResults) -> Text:
    people = len(results.raters)
    counted = "prompts and people" if people >= MANY_RATERS else "prompts"
    fewer = "" if people >= MANY_RATERS else f" With fewer than {MANY_RATERS} people, other people may judge otherwise."
    return Text(
        "Share of the votes for the first system of each two; a vote without a preference counts half. The 95%"
        f" intervals count that votes on the same {counted} are correlated.{fewer}"
    )


def _duels_chart(results: VoteResults) -> Charts:
    rows = [
        Interval(_duel_name(duel), duel.rate.rate, duel.rate.low, duel.rate.high, share_text(duel.rate))
        for duel in results.duels
    ]
    return Charts([Intervals("", "Win rates with 95% intervals", rows, mark=0.5, share=True)], size="wide")


def _duel_name(duel: Duel) -> str:
    return f"{duel.system} against {duel.other}"


def duels_table(results: VoteResults) -> Table:
    """Each two systems: wins, votes without a preference, losses, win rate."""
    columns = [
        Column("system", numeric=False),
        Column("other", "against", numeric=False),
        Column("wins"),
        Column("no_preference", "no preference"),
        Column("losses"),
        Column("rate", "win rate (95%)", _percent, noted=True),
    ]
    rows = [
        Row(
            {
                "system": duel.system,
                "other": duel.other,
                "wins": duel.wins,
                "no_preference": duel.no_preference,
                "losses": duel.losses,
                "rate": _share_cell(duel.rate, clear=duel.rate.low > 0.5 or duel.rate.high < 0.5),
            }
        )
        for duel in results.duels
    ]
    return Table(columns, rows, head="system", title=f"{results.title}: {_count(results.votes, 'vote')}")


def strengths_table(results: VoteResults) -> Table:
    """Systems by strength."""
    columns = [
        Column("system", numeric=False),
        Column("strength", "strength (95%)", number, noted=True),
        Column("chance", f"wins against {results.reference}", _percent),
        Column("votes"),
    ]
    rows = [
        Row(
            {
                "system": each.system,
                "strength": Cell(each.value, f"({each.low:+.2f} to {each.high:+.2f})"),
                "chance": each.win_chance,
                "votes": each.votes,
            },
            "base" if each.system == results.reference else "winner" if place == 0 else "",
        )
        for place, each in enumerate(results.strengths)
    ]
    return Table(columns, rows, head="system", title=f"{results.title}: strengths in the votes")


def _proxies(results: VoteResults) -> list[Section]:
    if not results.proxies:
        return []
    text = Text(
        "How often the image with the higher score by a metric got the vote: 50% is guessing, and below 50% people"
        " prefer lower scores. AUC counts the size of the difference too. Votes without a preference count in the"
        " calibration only. Bold where the agreement is not one half after Holm's correction for all metrics."
    )
    calibration = Text(
        "Calibration: share of votes for the image with the higher score against the size of the difference. Dots are"
        " bins of equally many votes, the line is a logistic fit. A metric to trust rises from one half."
    )
    curves = [_calibration(proxy) for proxy in results.proxies[:_CURVES] if proxy.bins]
    plots: list[Part] = [calibration, Charts(curves)] if curves else []
    return [Section("Which metric agrees with the votes", [text, proxies_table(results), *plots])]


def proxies_table(results: VoteResults) -> Table:
    """Metrics by their agreement with the votes."""
    columns = [
        Column("metric", numeric=False),
        Column("agreement", "agreement (95%)", _percent, noted=True),
        Column("auc", "AUC", lambda value: f"{value:.2f}"),
        Column("votes", hint="votes with a preference between two scored images"),
    ]
    rows = [
        Row(
            {
                "metric": proxy.metric,
                "agreement": _share_cell(proxy.agreement, clear=proxy.significant),
                "auc": proxy.auc,
                "votes": proxy.agreement.votes,
            }
        )
        for proxy in results.proxies
    ]
    return Table(columns, rows, head="metric", title="Agreement of metrics with the votes", sortable=True)


def _calibration(proxy: Proxy) -> Curves:
    end = max(point.difference for point in proxy.bins)
    steps = [end * step / 24 for step in range(25)]
    fit = Line("logistic fit", [[(x, 1 / (1 + exp(-proxy.slope * x))) for x in steps]], "strong", color=0)
    dots = [
        Line(
            "votes",
            [[(point.difference, point.share)]],
            color=1,
            hint=f"{_percent(point.share)} of {_count(point.votes, 'vote')} at {number(point.difference)}",
        )
        for point in proxy.bins
    ]
    description = f"Share of votes for the higher {proxy.metric} against the difference of the scores"
    return Curves(proxy.metric, description, [fit, *dots], baseline=0.5, x_title="score difference")


def _people(results: VoteResults) -> Section:
    lines: list[Part] = [Text(text) for text in people_texts(results)]
    return Section("People", [*lines, raters_table(results)])


def people_texts(results: VoteResults) -> list[str]:
    """Sentences on the agreement of people, their consistency and a bias to a side."""
    texts = []
    if (found := results.agreement) is not None:
        alpha = "" if found.alpha is None else f" (Krippendorff's alpha {found.alpha:.2f}; 1 is perfect, 0 is guessing)"
        texts.append(
            f"On {_count(found.pairs, 'pair')} that several people judged, two people gave the same answer in"
            f" {100 * found.percent:.0f}% of cases{alpha}. A metric that agrees as often is as good as a person."
        )
    if (same := results.consistency) is not None:
        texts.append(f"Hidden repeats were answered as the first time in {share_text(same)} of {same.votes} cases.")
    if (left := results.left) is not None:
        texts.append(f"The left image got {share_text(left)} of the votes with a preference.")
    return texts


def raters_table(results: VoteResults) -> Table:
    """People, their votes and their consistency."""
    columns = [
        Column("rater", numeric=False),
        Column("votes"),
        Column("no_preference", "no preference"),
        Column("consistent", "consistent repeats", numeric=False),
        Column("seconds", "median seconds", lambda value: "-" if value is None else f"{value:.1f}"),
    ]
    rows = [
        Row(
            {
                "rater": each.name,
                "votes": each.votes,
                "no_preference": each.no_preference,
                "consistent": f"{each.consistent} of {each.repeats}" if each.repeats else None,
                "seconds": each.seconds,
            }
        )
        for each in results.raters
    ]
    return Table(columns, rows, head="rater", title="People")


def _cards(results: VoteResults) -> list[Card]:
    cards = [Card("Votes", str(results.votes), f"by {_count(len(results.raters), 'person', 'people')}")]
    if len(results.duels) == 1:
        rate = results.duels[0].rate
        cards.append(Card("Win rate", _percent(rate.rate), f"95% interval {_interval(rate)}"))
    if results.proxies:
        best = results.proxies[0]
        cards.append(Card("Best proxy", best.metric, f"agrees in {share_text(best.agreement)}"))
    if results.consistency is not None:
        cards.append(Card("Consistency", _percent(results.consistency.rate), "of hidden repeats"))
    return cards


def _notes(results: VoteResults) -> Sequence[str]:
    stale = f"{_count(results.stale, 'vote')} on images that were replaced, or on systems left out, do not count."
    bad = f"{_count(results.both_bad, 'vote')} found both images bad."
    return [*results.notes, *([stale] if results.stale else []), *([bad] if results.both_bad else [])]


def _strength_text(strength: Strength) -> str:
    return f"{strength.value:+.2f} ({strength.low:+.2f} to {strength.high:+.2f})"


def share_text(share: Share) -> str:
    """`73% (58-85)`."""
    return f"{_percent(share.rate)} {_interval(share)}"


def _share_cell(share: Share, *, clear: bool) -> Cell:
    return Cell(share.rate, _interval(share), "clear" if clear else "unclear")


def _percent(share: Any) -> str:
    return f"{100 * share:.0f}%"


def _interval(share: Share) -> str:
    return f"({100 * share.low:.0f}-{100 * share.high:.0f})"


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
