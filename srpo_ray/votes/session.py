"""State of a vote that several people take part in: their current pairs, votes, undo and progress; thread-safe."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.choice import Offer, next_offer, total_offers
from srpo_ray.votes.ledger import Choice, Ledger, Undo, Vote, distinct

LONGEST_NAME = 60
_LONGEST_LOOK_S = 86400.0


class BadRequestError(ValueError):
    """Request of the page that cannot be served; the message is for the person."""


class StaleTicketError(BadRequestError):
    """Vote on a pair that the server no longer shows, for example after a restart."""


@dataclass(frozen=True)
class _Shown:
    """Pair on a person's screen, known to the page by random names only."""

    offer: Offer
    ticket: str
    left: str
    right: str
    since: float


class Session:
    """Votes of all persons on one ballot.

    Args:
        ballot: What is voted on.
        ledger: Where votes are stored.
        votes: Votes that the folder has already.
        seed: Seed of sides and choices.
        repeats: Hidden repeats as a share of a person's pairs, in [0, 1].
        needed: Votes that an experiment waits for; None if none does.
        clock: Seconds, for the duration of a vote.
    """

    def __init__(
        self,
        ballot: Ballot,
        ledger: Ledger,
        votes: list[Vote],
        *,
        seed: int = 0,
        repeats: float = 0.1,
        needed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ballot = ballot
        self._ledger = ledger
        self._votes = ballot.current(votes)
        self._seed = seed
        self._repeats = repeats
        self._needed = needed
        self._clock = clock
        self._shown: dict[str, _Shown] = {}
        self._images: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    @property
    def votes(self) -> list[Vote]:
        """Votes so far on the ballot's images, hidden repeats included."""
        with self._lock:
            return list(self._votes)

    def current(self, rater: str) -> dict[str, object]:
        """The pair that a person judges next, as the page needs it; nothing in it tells which system is which.

        Raises:
            BadRequestError: If the name cannot be used.
        """
        name = checked_name(rater)
        with self._lock:
            return self._state(name)

    def vote(self, rater: str, ticket: str, choice: str) -> dict[str, object]:
        """Store a vote, and return the next pair.

        Raises:
            StaleTicketError: If the person's screen shows a pair that is no longer current.
            BadRequestError: If name or choice cannot be used.
            OSError: If the vote could not be stored; then it does not count.
        """
        name, found = checked_name(rater), checked_choice(choice)
        with self._lock:
            shown = self._shown.get(name)
            if shown is None or not secrets.compare_digest(shown.ticket.encode(), ticket.encode()):
                raise StaleTicketError("This pair is no longer current. Here is the one to judge now.")
            vote = self._as_vote(name, shown, found)
            self._ledger.append(vote)
            self._votes.append(vote)
            self._forget(name)
            return self._state(name)

    def undo(self, rater: str) -> dict[str, object]:
        """Withdraw a person's latest vote, and return its pair.

        Raises:
            BadRequestError: If the person has no vote, or the name cannot be used.
            OSError: If that could not be stored; then the vote still counts.
        """
        name = checked_name(rater)
        with self._lock:
            latest = next((vote for vote in reversed(self._votes) if vote.rater == name), None)
            if latest is None:
                raise BadRequestError("There is no vote to undo.")
            self._ledger.append(Undo(time=_now(), rater=name, undo=latest.id))
            self._votes = [vote for vote in self._votes if vote.id != latest.id]
            self._forget(name)
            self._show(name, Offer(latest.item, latest.left, latest.right, latest.repeat_of))
            return self._state(name)

    def image(self, name: str) -> bytes | None:
        """PNG file of an image on somebody's screen, by the random name that the page knows; None for other names."""
        with self._lock:
            key = self._images.get(name)
        return None if key is None else self._ballot.images[key].png()

    def _state(self, rater: str) -> dict[str, object]:
        if rater not in self._shown:
            offer = next_offer(self._ballot, self._votes, rater, seed=self._seed, repeats=self._repeats)
            if offer is not None:
                self._show(rater, offer)
        own = sum(vote.rater == rater for vote in self._votes)
        shown = self._shown.get(rater)
        state: dict[str, object] = {
            "rater": rater,
            "voted": own,
            "total": max(own + (shown is not None), total_offers(self._ballot, self._repeats)),
            "done": shown is None,
            "given": len(distinct(self._votes)),
            "needed": self._needed,
        }
        if shown is not None:
            prompt = self._ballot.items[shown.offer.item].prompt
            state |= {"ticket": shown.ticket, "prompt": prompt, "left": shown.left, "right": shown.right}
        return state

    def _show(self, rater: str, offer: Offer) -> None:
        shown = _Shown(offer, *(secrets.token_hex(12) for _ in range(3)), since=self._clock())
        self._shown[rater] = shown
        self._images |= {shown.left: (offer.left, offer.item), shown.right: (offer.right, offer.item)}

    def _forget(self, rater: str) -> None:
        shown = self._shown.pop(rater, None)
        if shown is not None:
            self._images.pop(shown.left)
            self._images.pop(shown.right)

    def _as_vote(self, rater: str, shown: _Shown, choice: Choice) -> Vote:
        offer, images = shown.offer, self._ballot.images
        item = self._ballot.items[offer.item]
        return Vote(
            id=secrets.token_hex(8),
            time=_now(),
            rater=rater,
            item=item.key,
            prompt_index=item.prompt_index,
            prompt=item.prompt,
            left=offer.left,
            right=offer.right,
            left_image=images[offer.left, item.key].digest,
            right_image=images[offer.right, item.key].digest,
            choice=choice,
            repeat_of=offer.repeat_of,
            seconds=round(min(self._clock() - shown.since, _LONGEST_LOOK_S), 2),
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def checked_name(name: str) -> str:
    """A person's name without surrounding blanks.

    Raises:
        BadRequestError: If it is empty, long or not printable.
    """
    stripped = " ".join(name.split())
    if not stripped or len(stripped) > LONGEST_NAME or not stripped.isprintable():
        raise BadRequestError(f"Please give a name of 1 to {LONGEST_NAME} printable characters.")
    return stripped


def checked_choice(choice: str) -> Choice:
    """One of the four answers.

    Raises:
        BadRequestError: If it is none.
    """
    known: tuple[Literal["left", "right", "tie", "both_bad"], ...] = get_args(Choice)
    for each in known:
        if choice == each:
            return each
    raise BadRequestError(f"Expected one of {', '.join(known)}.")
