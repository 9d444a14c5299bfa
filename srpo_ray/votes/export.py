"""Export of votes as preference pairs: JSON lines with PNG files, which `data.pairs` reads."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srpo_ray.files import replacing, write_text
from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.ledger import Vote, distinct


def export_pairs(path: Path, ballot: Ballot, votes: Sequence[Vote], *, ties: bool = False) -> int:
    """Write one JSON line per vote, and the images beside the file in `<name>_images/`.

    Columns: `prompt`, `preferred`, `other` (PNG files, relative to the file; the left one first without a preference),
    `confidence` (1, or 0 without a preference), `annotator`, then as in Pick-a-Pic `image_0`, `image_1` (the files
    again; 0 was on the left), `label_0`, `label_1` (1 preferred, 0 not, 0.5 each without a preference), `strength`
    (share of all votes on the two images that agree with the label, in (0, 1]), `votes` (their number), `system_0`,
    `system_1`, `both_bad` and `time`. Hidden repeats are left out.

    Args:
        path: File to write; one with the same name is replaced.
        ballot: What was voted on.
        votes: All votes of its folder.
        ties: Write votes without a preference too.

    Returns:
        Number of lines.

    Raises:
        ValueError: If there is no vote to export, or the file cannot be written.
    """
    counted = distinct(ballot.current(votes))
    chosen = [vote for vote in counted if ties or vote.preferred is not None]
    if not chosen:
        raise ValueError(
            f"expected votes with a preference in {ballot.folder}, got none among {len(counted)}; vote first, or export"
            " votes without a preference by --ties"
        )
    answers = Counter((vote.item, vote.systems, vote.preferred) for vote in counted)
    images = path.with_name(f"{path.stem}_images")
    try:
        rows = [_row(vote, answers, images.name) for vote in chosen]
        for vote in chosen:
            _write_images(images, ballot, vote)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        raise ValueError(
            f"expected a place where pairs can be written, got {path} ({error.strerror}); free it or name another file"
        ) from error
    return len(rows)


def _row(vote: Vote, answers: Counter[tuple[str, tuple[str, str], str | None]], folder: str) -> dict[str, Any]:
    left, right = (f"{folder}/{digest}.png" for digest in (vote.left_image, vote.right_image))
    on_pair = sum(
        count for (item, systems, _), count in answers.items() if (item, systems) == (vote.item, vote.systems)
    )
    preferred, other = (right, left) if vote.choice == "right" else (left, right)
    return {
        "prompt": vote.prompt,
        "preferred": preferred,
        "other": other,
        "confidence": 0.0 if vote.preferred is None else 1.0,
        "annotator": vote.rater,
        "image_0": left,
        "image_1": right,
        "label_0": vote.score(vote.left),
        "label_1": vote.score(vote.right),
        "strength": answers[vote.item, vote.systems, vote.preferred] / on_pair,
        "votes": on_pair,
        "system_0": vote.left,
        "system_1": vote.right,
        "both_bad": vote.choice == "both_bad",
        "time": vote.time,
    }


def _write_images(folder: Path, ballot: Ballot, vote: Vote) -> None:
    for system, digest in ((vote.left, vote.left_image), (vote.right, vote.right_image)):
        file = folder / f"{digest}.png"
        if not file.exists():
            with replacing(file) as unfinished:
                unfinished.write_bytes(ballot.images[system, vote.item].png())
