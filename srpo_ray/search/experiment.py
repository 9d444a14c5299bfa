"""An experiment from its file to its report: search the values of arms, train each with several seeds, ablate one."""

import uuid
from pathlib import Path

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.data.texts import read_texts
from srpo_ray.launch.capacity import is_one_machine
from srpo_ray.launch.leakage import check_leakage
from srpo_ray.launch.preflight import check_inputs
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.train import check_cluster
from srpo_ray.live.follow import Follower
from srpo_ray.live.state import Progress
from srpo_ray.search.arms import search_arms, train_arms
from srpo_ray.search.experiment_page import ExperimentPage
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
    base = with_absolute_paths(base)
    runs = list(map(with_absolute_paths, (*trained, *trials)))
    folder = open_experiment_folder(config, base, runs)
    command = first_command(folder, command)
    commit = git_commit(Path.cwd())
    start = Progress.start(config.name, "experiment", config.num_runs, [config.objective])
    with Follower(folder, start, ExperimentPage(folder, config, command, commit)) as follower:
        with ray_session(address):
            check_cluster(base)
            with reward_pools(runs, f"rewards_{config.name}") as pools:
                params = flatten(config.model_dump(mode="json", exclude={"arms", "ablations"}))
                parent_run = start_parent_run(base, config.name, folder, params)
                command_to_resume, unique = f"{resume} {folder}", uuid.uuid4().hex
                experiment = Experiment(
                    base, str(folder), pools, parent_run, command_to_resume, commit, is_one_machine(), unique
                )
                searches, notes = search_arms(experiment, config)
                arms = train_arms(experiment, config, searches)
        follower.stop()
        return publish(experiment, config, searches, arms, notes, command)
