"""Notes on pairs that occur several times in a file, with the same or with the other image preferred."""

from collections import Counter
from collections.abc import Hashable, Iterable


def repeat_notes(pairs: Iterable[tuple[Hashable, Hashable]]) -> list[str]:
    """Count pairs that repeat an earlier one, and pairs that another one contradicts; both counts may include a pair.

    Args:
        pairs: Preferred and other side of each pair: an image with its prompt.

    Returns:
        A note for each count above 0.
    """
    counts = Counter(pairs)
    repeated = sum(count - 1 for count in counts.values())
    contradicted = sum(count for (preferred, other), count in counts.items() if (other, preferred) in counts)
    notes = [f"{repeated} repeat an earlier row"] * bool(repeated)
    return [*notes, *[f"{contradicted} contradict another row"] * bool(contradicted)]
