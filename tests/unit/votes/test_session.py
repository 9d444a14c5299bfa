"""The state of a vote: order of pairs, sides, repeats, undo, and what the page may know."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.choice import next_offer
from srpo_ray.votes.ledger import Choice, Vote, open_ledger, read_votes
from srpo_ray.votes.session import BadRequestError, Session, StaleTicketError
from tests.helpers.ballots import ballot, vote


def judged(
    of: Ballot, votes: list[Vote], rater: str, count: int, choice: Choice = "left", repeats: float = 0.0
) -> None:
    """Let one person judge the next pairs."""
    for _ in range(count):
        offer = next_offer(of, votes, rater, seed=0, repeats=repeats)
        assert offer is not None
        repeat = offer.repeat_of or ""
        prompt = of.items[offer.item].prompt_index
        votes.append(vote(of, rater, prompt, offer.left, offer.right, choice, number=len(votes), repeat_of=repeat))


def test_every_two_systems_have_a_round_of_votes_before_any_has_more(tmp_path: Path) -> None:
    of, votes = ballot(tmp_path, ["base", "a", "b"], prompts=10), list[Vote]()
    judged(of, votes, "Ada", 12)
    assert set(Counter(each.systems for each in votes).values()) == {4}
    # No prompt has two votes more than another.
    by_prompt = Counter(each.item for each in votes)
    assert max(by_prompt.values()) - min(by_prompt[item] for item in of.items) <= 1


def test_after_the_round_the_most_uncertain_systems_are_compared(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "equal", "winner"], prompts=60)
    votes = [vote(of, "Ada", n, "winner", "base", "left") for n in range(4)]
    votes += [vote(of, "Ada", n, "winner", "equal", "left") for n in range(4)]
    votes += [vote(of, "Ada", n, "base", "equal", ("left", "right")[n % 2]) for n in range(4)]
    more = list(votes)
    judged(of, more, "Ada", 6)
    assert {each.systems for each in more[len(votes) :]} == {("base", "equal")}


def test_people_share_pairs_so_that_their_agreement_can_be_measured(tmp_path: Path) -> None:
    of, votes = ballot(tmp_path, ["base", "a", "b", "c"], prompts=20), list[Vote]()
    judged(of, votes, "Ada", 12)
    judged(of, votes, "Bo", 12)
    common = {(each.item, each.systems) for each in votes if each.rater == "Ada"}
    assert sum((each.item, each.systems) in common for each in votes if each.rater == "Bo") >= 4


def test_sides_are_swapped_by_chance_and_repeats_show_the_other_side(tmp_path: Path) -> None:
    of, votes = ballot(tmp_path, ["base", "tuned"], prompts=60), list[Vote]()
    judged(of, votes, "Ada", 72, repeats=0.2)
    first = [each for each in votes if each.repeat_of is None]
    assert 18 <= sum(each.left == "base" for each in first) <= 42
    repeats = [each for each in votes if each.repeat_of is not None]
    assert len(repeats) == 12
    by_id = {each.id: each for each in votes}
    for again in repeats:
        before = by_id[again.repeat_of or ""]
        assert (again.left, again.right, again.item) == (before.right, before.left, before.item)
        assert votes.index(again) - votes.index(before) >= 5
    assert len({each.repeat_of for each in repeats}) == 12
    assert next_offer(of, votes, "Ada", seed=0, repeats=0.2) is None


def test_page_is_told_nothing_by_which_systems_can_be_recognised(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "SRPO_trial_0", "SRPO_trial_1"])
    with open_ledger(tmp_path) as ledger:
        session = Session(of, ledger, [])
        seen: list[dict[str, Any]] = []
        state = session.current("Ada")
        while not state["done"]:
            seen.append(state)
            state = session.vote("Ada", str(state["ticket"]), "left")
    text = str(seen)
    assert not [name for name in (*of.systems, *of.items) if name in text]
    # An image has another name each time, so that a system cannot be recognised by the names of its images.
    names = [each[side] for each in seen for side in ("left", "right")]
    assert len(set(names)) == len(names) > len(of.images)
    assert {key for each in seen for key in each} == {
        "rater", "voted", "total", "done", "ticket", "prompt", "left", "right", "given", "needed",
    }  # fmt: skip


def test_restarted_server_continues_where_each_person_stopped(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "tuned"], prompts=3)
    with open_ledger(tmp_path) as ledger:
        session = Session(of, ledger, [])
        session.vote("Ada", str(session.current("Ada")["ticket"]), "tie")
        asked = session.current("Ada")["prompt"]
        session.vote("Bo", str(session.current("Bo")["ticket"]), "left")
    with open_ledger(tmp_path) as ledger:
        again = Session(of, ledger, read_votes(tmp_path))
        assert (again.current("Ada")["voted"], again.current("Ada")["prompt"]) == (1, asked)
        assert again.current("Bo")["voted"] == 1
        assert again.current("Cy")["voted"] == 0


def test_undo_shows_the_same_pair_again_and_withdraws_the_vote(tmp_path: Path) -> None:
    of = ballot(tmp_path, ["base", "tuned"])
    with open_ledger(tmp_path) as ledger:
        session = Session(of, ledger, [])
        first = session.current("Ada")
        second = session.vote("Ada", str(first["ticket"]), "left")
        shown = session.image(str(second["left"]))
        undone = session.undo("Ada")
        assert (undone["prompt"], undone["voted"]) == (first["prompt"], 0)
        assert session.image(str(second["left"])) is None
        assert shown is not None
        with pytest.raises(BadRequestError, match="no vote to undo"):
            session.undo("Ada")
    assert read_votes(tmp_path) == []


def test_vote_on_a_pair_that_is_not_on_the_screen_any_more_is_refused(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        session = Session(ballot(tmp_path, ["base", "tuned"]), ledger, [])
        ticket = str(session.current("Ada")["ticket"])
        session.vote("Ada", ticket, "left")
        with pytest.raises(StaleTicketError):
            session.vote("Ada", ticket, "left")
        for name in ("", " ", "x" * 61, "a\x00b"):
            with pytest.raises(BadRequestError, match="name"):
                session.current(name)
        with pytest.raises(BadRequestError, match="Expected one of"):
            session.vote("Ada", str(session.current("Ada")["ticket"]), "best")
    assert len(read_votes(tmp_path)) == 1


def test_votes_on_images_that_were_replaced_do_not_count(tmp_path: Path) -> None:
    before, after = ballot(tmp_path, ["base", "tuned"]), ballot(tmp_path, ["other", "base", "tuned"])
    old = vote(before, "Ada", 1, "base", "tuned", "left")
    assert before.current([old]) == [old]
    assert after.current([old]) == []
