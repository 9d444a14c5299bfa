"""Statistics of votes against closed forms, scipy, published examples and simulated people with known strengths."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special, stats

from srpo_ray.votes.agreement import agreement, consistency, krippendorff_alpha, left_share, raters
from srpo_ray.votes.intervals import clustered_share, wilson
from srpo_ray.votes.ledger import Vote
from srpo_ray.votes.proxies import auc, compare_proxies, logistic_slope
from srpo_ray.votes.results import vote_results
from srpo_ray.votes.strengths import fit, strengths
from tests.helpers.ballots import METRIC, ballot, vote


def test_interval_of_independent_votes_is_wilsons() -> None:
    for wins, number in ((7, 10), (30, 1000), (0, 25), (25, 25)):
        values = [1.0] * wins + [0.0] * (number - wins)
        share = clustered_share(values, list(range(number)), ["Ada"] * number)
        expected = stats.binomtest(wins, number).proportion_ci(method="wilson")
        assert wilson(wins / number, number, float(stats.norm.ppf(0.975))) == pytest.approx(
            (expected.low, expected.high)
        )
        # Student's t makes it wider for few prompts, and equal for many.
        assert share.low <= expected.low + 1e-12
        assert share.high >= expected.high - 1e-12
        if number == 1000:
            assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_interval_of_few_prompts_inverts_the_score_test_with_students_t() -> None:
    share = clustered_share([1.0] * 6 + [0.0] * 2, list(range(8)), ["Ada"] * 8)

    def deviate(chance: float) -> float:
        return (0.75 - chance) / np.sqrt(chance * (1 - chance) / 8)

    quantile = float(stats.t.ppf(0.975, 7))
    low = optimize.brentq(lambda chance: deviate(chance) - quantile, 1e-6, 0.75)
    high = optimize.brentq(lambda chance: deviate(chance) + quantile, 0.75, 1 - 1e-6)
    assert (share.low, share.high) == pytest.approx((low, high))
    assert share.p_value == pytest.approx(float(2 * stats.t.sf(deviate(0.5), 7)))


def test_repeated_votes_on_the_same_prompts_add_no_certainty() -> None:
    prompts = list(range(12))
    values = [1.0] * 8 + [0.0] * 4
    once = clustered_share(values, prompts, ["Ada"] * 12)
    thrice = clustered_share(values * 3, prompts * 3, ["Ada"] * 12 + ["Bo"] * 12 + ["Cy"] * 12)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_interval_covers_the_true_share_of_correlated_votes() -> None:
    """People share a taste per prompt, and from six people on their own differences count too."""
    source = np.random.default_rng(0)
    for people, over_people in ((4, 0.0), (12, 0.8)):
        covered, plain, draws = 0, 0, 400
        # Mean of sigmoid(0.4 + noise), by quadrature over the normal distribution of both effects.
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        truth = float((special.expit(0.4 + np.sqrt(1.5**2 + over_people**2) * nodes) * weights).sum() / weights.sum())
        for _ in range(draws):
            logits = 0.4 + 1.5 * source.standard_normal((12, 1)) + over_people * source.standard_normal((1, people))
            votes = (source.random((12, people)) < special.expit(logits)).astype(float)
            prompts = [row for row in range(12) for _ in range(people)]
            names = list(range(people)) * 12
            share = clustered_share(votes.ravel().tolist(), prompts, names)
            covered += share.low <= truth <= share.high
            low, high = wilson(share.rate, votes.size, 1.96)
            plain += low <= truth <= high
        assert covered / draws > 0.91
        # An interval that takes votes for independent covers it much less often.
        assert plain / draws < 0.88


def test_strength_of_two_systems_is_the_log_odds_of_a_win() -> None:
    found = fit(np.array([[0.0, 30.0], [10.0, 0.0]]), prior_sd=1e6)
    assert found[0] - found[1] == pytest.approx(np.log(3))
    # Log-odds add up along a chain.
    chain = fit(np.array([[0.0, 30.0, 0.0], [10.0, 0.0, 20.0], [0.0, 10.0, 0.0]]), prior_sd=1e6)
    assert chain[0] - chain[2] == pytest.approx(np.log(3) + np.log(2), abs=1e-6)


def test_strengths_are_those_of_a_general_optimizer() -> None:
    source = np.random.default_rng(1)
    wins = source.integers(0, 9, size=(5, 5)).astype(float)
    wins[2] = 0.0
    wins[np.arange(5), np.arange(5)] = 0.0

    def loss(values: np.ndarray) -> float:
        chances = special.log_expit(values[:, None] - values[None, :])
        return float(-(wins * chances).sum() + (values**2).sum() / (2 * 3.0**2))

    best = optimize.minimize(loss, np.zeros(5), method="BFGS").x
    assert fit(wins) == pytest.approx(best - best.mean(), abs=1e-4)
    # A system without a win has a finite strength.
    assert np.isfinite(fit(wins)).all()


def simulated(source: np.random.Generator, folder: Path, truth: dict[str, float], prompts: int) -> list[Vote]:
    """Votes of three people on every pair; how much a system suits a prompt varies."""
    of = ballot(folder, list(truth), prompts)
    liking = {name: value + 0.5 * source.standard_normal(prompts) for name, value in truth.items()}
    votes = []
    for pair in of.pairs:
        prompt = of.items[pair.item].prompt_index
        chance = special.expit(liking[pair.first][prompt] - liking[pair.second][prompt])
        for person in ("Ada", "Bo", "Cy"):
            choice = "left" if source.random() < chance else "right"
            votes.append(vote(of, person, prompt, pair.first, pair.second, choice))
    return votes


def test_intervals_of_strengths_cover_the_strengths_of_simulated_systems(tmp_path: Path) -> None:
    source, truth = np.random.default_rng(2), {"base": 0.0, "good": 1.0, "same": 0.0}
    # Prompt effects shrink the log-odds of the mean preference: sigmoid(d / sqrt(1 + c^2 s^2)), c = 16 sqrt(3) / 15 pi.
    shrink = 1 / np.sqrt(1 + (16 * np.sqrt(3) / (15 * np.pi)) ** 2 * 2 * 0.5**2)
    covered = []
    for _ in range(25):
        found = {each.system: each for each in strengths(simulated(source, tmp_path, truth, 10), list(truth))}
        covered += [found[name].low <= truth[name] * shrink <= found[name].high for name in ("good", "same")]
    assert np.mean(covered) >= 0.88


def test_strength_of_a_system_that_wins_every_vote_has_an_interval(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "tuned"], prompts=6)
    found = strengths([vote(of, "Ada", n, "base", "tuned", "right") for n in range(6)], ["base", "tuned"])[0]
    assert found.system == "tuned"
    assert found.value > 1
    assert found.high - found.low > 2


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Four observers, twelve units (Krippendorff, Computing Krippendorff's alpha-reliability, 2011, section C)."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units: list[Sequence[Hashable]] = [[row[unit] for row in rows if row[unit] is not None] for unit in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None


def test_people_who_agree_have_an_alpha_of_one_and_guessers_of_zero(tmp_path: Path) -> None:
    of, source = ballot(tmp_path, ["base", "tuned"], prompts=400), np.random.default_rng(3)

    def answers(sides: Sequence[int], name: str) -> list[Vote]:
        return [vote(of, name, n, "base", "tuned", "left" if side else "right") for n, side in enumerate(sides)]

    same = [1] * 380 + [0] * 20
    alike = agreement([*answers(same, "Ada"), *answers(same, "Bo")])
    assert alike is not None
    assert (alike.pairs, alike.percent, alike.alpha) == (400, 1.0, 1.0)
    guesses = [answers(source.integers(0, 2, 400).tolist(), name) for name in ("Ada", "Bo")]
    guessed = agreement([each for group in guesses for each in group])
    assert guessed is not None
    assert guessed.alpha == pytest.approx(0.0, abs=0.12)
    assert agreement(answers(same, "Ada")) is None


def test_agreement_on_a_clear_winner_is_not_taken_for_chance(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "tuned"], prompts=20)
    votes = [vote(of, "Ada", n, "base", "tuned", "right") for n in range(20)]
    votes += [vote(of, "Bo", n, "base", "tuned", "right" if n < 18 else "left") for n in range(20)]
    found = agreement(votes)
    assert found is not None
    # In both orders, half of the 80 values are wins: a random couple of them differs in 40 / 79 of cases.
    assert found.alpha == pytest.approx(1 - 0.1 / (40 / 79))


def test_repeats_measure_consistency_and_do_not_count_as_votes(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "tuned"])
    first = [vote(of, "Ada", n, "base", "tuned", "left") for n in range(4)]
    same = vote(of, "Ada", 0, "tuned", "base", "right", number=1, repeat_of=first[0].id)
    other = vote(of, "Ada", 1, "tuned", "base", "left", number=1, repeat_of=first[1].id)
    votes = [*first, same, other]
    assert [(each.votes, each.repeats, each.consistent) for each in raters(votes)] == [(4, 2, 1)]
    found, left = consistency(votes), left_share(votes)
    assert found is not None
    assert left is not None
    assert (found.rate, found.votes) == (0.5, 2)
    assert left.rate == pytest.approx(5 / 6)
    results = vote_results(of, votes)
    assert (results.votes, results.repeats, results.duels[0].losses) == (4, 2, 4)
    assert {each.votes for each in results.strengths} == {4}


def test_auc_is_that_of_the_mann_whitney_test_in_both_orders() -> None:
    gaps = np.array([0.5, 1.0, -0.2, 0.0, 0.7, -0.9, 0.3])
    expected = stats.mannwhitneyu(gaps, -gaps).statistic / len(gaps) ** 2
    assert auc(gaps) == pytest.approx(float(expected))
    assert auc(np.array([1.0, 2.0])) == 1.0
    assert auc(np.zeros(3)) == 0.5


def test_logistic_slope_is_that_of_a_general_optimizer_and_recovers_the_truth() -> None:
    source = np.random.default_rng(4)
    differences = source.normal(0, 0.3, 4000)
    wins = (source.random(4000) < special.expit(5.0 * differences)).astype(float)

    def loss(slope: np.ndarray) -> float:
        return float(-(wins * special.log_expit(slope[0] * differences)).sum()) - float(
            ((1 - wins) * special.log_expit(-slope[0] * differences)).sum()
        )

    expected = float(optimize.minimize(loss, np.zeros(1), method="BFGS").x[0])
    assert logistic_slope(differences, wins) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(5.0, abs=0.5)
    assert logistic_slope(np.zeros(3), np.ones(3)) == 0.0


def test_proxy_that_decides_like_people_is_found_and_a_random_one_is_not(tmp_path: Path) -> None:
    of, source = ballot(tmp_path, ["base", "tuned"], prompts=60), np.random.default_rng(5)
    quality = {key: float(source.normal()) for key in of.images}
    scores = {
        "evaluator/good": quality,
        "evaluator/upside_down": {key: -value for key, value in quality.items()},
        "image/random": {key: float(source.normal()) for key in of.images},
    }
    votes = []
    for pair in of.pairs:
        prompt, gap = of.items[pair.item].prompt_index, quality["base", pair.item] - quality["tuned", pair.item]
        choice = "left" if source.random() < special.expit(4 * gap) else "right"
        votes.append(vote(of, "Ada", prompt, "base", "tuned", choice))
    votes.append(vote(of, "Bo", 0, "base", "tuned", "tie"))
    good, random, upside_down = compare_proxies(votes, scores)
    assert [good.metric, random.metric, upside_down.metric] == [
        "evaluator/good",
        "image/random",
        "evaluator/upside_down",
    ]
    signs = [each.preferred == max(("base", "tuned"), key=lambda name: quality[name, each.item]) for each in votes[:-1]]
    assert good.agreement.rate == pytest.approx(np.mean(signs))
    assert upside_down.agreement.rate == pytest.approx(1 - np.mean(signs))
    assert (good.significant, random.significant, upside_down.significant) == (True, False, True)
    assert good.agreement.votes == 60
    assert good.slope == pytest.approx(4, rel=0.5)
    assert good.bins[0].share < good.bins[-1].share
    assert sum(each.votes for each in good.bins) == 61
    with pytest.raises(ValueError, match=r"--metric: expected metrics .*evaluator/good.*got truth/x"):
        compare_proxies(votes, scores, ["truth/x"])


def test_results_name_the_winner_and_the_metrics_for_the_tracker(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "tuned"], prompts=8)
    votes = [vote(of, "Ada", n, "base", "tuned", "right" if n < 6 else "tie") for n in range(8)]
    results = vote_results(of, votes)
    assert results.best is not None
    assert results.best.system == "tuned"
    logged = results.metrics()
    assert logged["votes/win_rate"] == pytest.approx((6 + 0.5 * 2) / 8)
    assert logged[f"votes/agreement/{METRIC}"] == 1.0
    assert logged["votes/count"] == 8
    assert vote_results(of, []).best is None
