"""Chains of runs of one seed that continue from each other, round by round of a schedule."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from srpo_ray.config.arm import Ablation, Arm
from srpo_ray.config.base import folder_name
from srpo_ray.config.experiment_parts import TEST
from srpo_ray.evaluation.results import TrialRow
from srpo_ray.search.phase import PlannedRun
from srpo_ray.search.promotion import Train

Chain = Sequence[PlannedRun]


def seed_chain(
    part: Arm | Ablation, rounds: Sequence[Mapping[str, Any]], seed: int, folder_of: Callable[[str], str]
) -> list[PlannedRun]:
    """Plan the runs of an arm or ablation for one seed: one for each round, which continues that of the round before.

    Args:
        part: The arm or ablation.
        rounds: Changes of each round to the base config.
        seed: Seed of all its runs.
        folder_of: Function from the name of a run to its folder.
    """
    kind = "repeat" if isinstance(part, Arm) else "ablation"
    name, label = f"{folder_name(part.name)}_seed_{seed}", f"{part.name}, seed {seed}"
    chain = list[PlannedRun]()
    for number, changes in enumerate(rounds, 1):
        last = number == len(rounds)
        start = folder_of(chain[-1].name) if chain else None
        # Only the last weights are tested.
        own, settings = (name, changes) if last else (f"{name}_round_{number}", {**changes, TEST: None})
        # Pages and tables of an arm show its last runs only.
        group = part.name if last else ""
        chain.append(PlannedRun(own, kind, label, dict(settings), seed, start, group))
    return chain


def train_chains(train: Train, phase: str, title: str, chains: Sequence[Chain]) -> dict[str, TrialRow]:
    """Train chains round by round; the last runs of all are trained together.

    Args:
        train: Function that trains planned runs.
        phase: Name of the phase of the last runs; the phases of earlier rounds begin with it.
        title: Title of the last runs.
        chains: The chains.

    Returns:
        Name of each chain's last run that has started -> its row, or the row of the run at which the chain ended.
    """
    ended: dict[str, TrialRow] = {}
    for number in range(1, max(map(len, chains), default=1)):
        going = [chain for chain in chains if len(chain) > number and chain[-1].name not in ended]
        runs = [chain[number - 1] for chain in going]
        rows = train(f"{phase}_round_{number}", f"round {number} of schedules", runs)
        found = {row.name: row for row in rows}
        # A budget may have no room for a chain, which is then not begun.
        chains = [chain for chain in chains if chain not in going or chain[number - 1].name in found]
        # Nothing continues a run that failed or was stopped.
        pairs = [(chain, found[chain[number - 1].name]) for chain in going if chain[number - 1].name in found]
        ended |= {chain[-1].name: row for chain, row in pairs if row.status != "finished"}
    last = [chain[-1] for chain in chains if chain[-1].name not in ended]
    # A budget may have no room for some of them.
    return ended | {row.name: row for row in train(phase, title, last)}
