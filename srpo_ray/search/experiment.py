"""An experiment from its file to its report: search the values of arms, train each with several seeds, ablate one."""

import uuid
from collections.abc import Sequence
from pathlib import Path

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.data.texts import read_texts
from srpo_ray.launch.capacity import is_one_machine
from srpo_ray.launch.leakage import check_leakage
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.train import check_cluster
from srpo_ray.search.arms import search_arms, train_arms
from srpo_ray.search.budget import budget_terms, counting, plan_budget
from srpo_ray.search.concurrency import RunNeeds, cluster_concurrency, run_needs
from srpo_ray.search.folder import first_command, open_experiment_folder
from srpo_ray.search.phase import start_parent_run
from srpo_ray.search.pools import reward_pools
from srpo_ray.search.publish import publish
from srpo_ray.search.trial import Experiment
from srpo_ray.tracking.runs import flatten, git_commit


def run_experiment(config: ExperimentConfig, base: RunConfig, address: str | None, command: str, resume: str) -> Path:
    """Run an experiment, or resume the one in the same folder.

    Args:
        config: Arms, search, seeds, ablations.
        base: Config that all runs start from.
        address: Ray cluster to use; None takes `RAY_ADDRESS` or starts a local one.
        command: Command that the user typed, for the report.
        resume: Command that resumes the experiment, without the folder that follows it.

    Returns:
        Path of the HTML report.

    Raises:
        ValueError: If an input cannot be used, or no trial of a searched arm finished.
        CommandInterruptedError: If it was stopped by Ctrl-C.
    """
    trained = [apply(base, changes) for _, changes in config.trained_changes()]
    for run in trained:
        check_inputs(run)
    trials = [apply(base, changes) for _, changes in config.trial_changes()]
    for run in trials:
        check_leakage(run, read_texts(run))
    planned = plan_budget(config, base)
    base = with_absolute_paths(base)
    runs = list(map(with_absolute_paths, (*trained, *trials)))
    folder = open_experiment_folder(config, base, runs)
    command = first_command(folder, command)
    with ray_session(address):
        check_cluster(base)
        with reward_pools(runs, f"rewards_{config.name}") as pools:
            params = flatten(config.model_dump(mode="json", exclude={"arms", "ablations"}))
            parent_run = start_parent_run(base, config.name, folder, params)
            commit = git_commit(Path.cwd())
            command_to_resume, start = f"{resume} {folder}", uuid.uuid4().hex
            config, follows = _with_number(config, runs)
            budget = budget_terms(config, base, planned)
            experiment = Experiment(
                base,
                str(folder),
                pools,
                parent_run,
                command_to_resume,
                commit,
                is_one_machine(),
                start,
                budget,
                follows,
            )
            with counting(folder, budget, base, parent_run):
                searches, notes = search_arms(experiment, config)
                arms = train_arms(experiment, config, searches)
    return publish(experiment, config, searches, arms, notes, command)


def _with_number(config: ExperimentConfig, runs: Sequence[RunConfig]) -> tuple[ExperimentConfig, RunNeeds | None]:
    """Replace `max_concurrent_trials: auto` by what the connected cluster has room for.

    Args:
        config: The experiment.
        runs: Configs of its runs.

    Returns:
        The experiment with a number, and the needs of its runs if the number follows the cluster.
    """
    if config.max_concurrent_trials != "auto":
        return config, None
    trials = sum(arm.num_trials(config.search.num_samples) for arm in config.arms)
    needs = run_needs(runs, max(trials, sum(len(config.seeds_of(part)) for part in config.parts)))
    return config.model_copy(update={"max_concurrent_trials": cluster_concurrency(needs)}), needs
