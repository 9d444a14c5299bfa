"""An experiment from its file to its report: search the values of arms, train each with several seeds, ablate one."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from srpo_ray.config import ExperimentConfig, RunConfig, apply
from srpo_ray.config.absolute_paths import with_absolute_paths
from srpo_ray.config.continued_runs import num_later_runs
from srpo_ray.data.texts import read_texts
from srpo_ray.imports import import_steps
from srpo_ray.launch.background import begun_in_background
from srpo_ray.launch.capacity import is_one_machine, needs_no_worker
from srpo_ray.launch.control_words import check_control_words
from srpo_ray.launch.forking import can_fork
from srpo_ray.launch.leakage import check_leakage
from srpo_ray.launch.preflight import check_contrast_with, check_inputs, input_notes
from srpo_ray.launch.reward_checks import check_sources
from srpo_ray.launch.session import ray_session
from srpo_ray.launch.stopped_runs import ending_runs
from srpo_ray.launch.train import check_cluster
from srpo_ray.live.follow import Follower
from srpo_ray.live.state import Progress
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.folder_lock import folder_lock
from srpo_ray.runs.inputs import input_hashes
from srpo_ray.search.arms import search_arms, train_arms
from srpo_ray.search.budget_records import counting
from srpo_ray.search.budget_terms import BudgetTerms, budget_terms, plan_budget
from srpo_ray.search.concurrency import RunNeeds, cluster_concurrency, run_needs
from srpo_ray.search.earlier_trials import EarlierTrials, earlier_trials_file, keep_earlier_trials, read_earlier_trials
from srpo_ray.search.experiment_page import ExperimentPage
from srpo_ray.search.folder import first_command, open_experiment_folder, resume_command
from srpo_ray.search.pools import reward_pools
from srpo_ray.search.publish import publish
from srpo_ray.search.searchers import check_searcher, searched_metrics
from srpo_ray.search.spending import Spending, budget_line
from srpo_ray.search.trial import Experiment, run_folders
from srpo_ray.tracking.client import create_database
from srpo_ray.tracking.runs import flatten, git_commit, start_run, tracking_uri
from srpo_ray.tracking.server import require_server


def run_experiment(
    config: ExperimentConfig,
    base: RunConfig,
    address: str | None,
    command: str,
    resume: str,
    note: Callable[[str], object] = print,
    workers: str | None = None,
) -> Path:
    """Run an experiment, or resume the one in the same folder.

    Args:
        config: Arms, search, seeds, ablations.
        base: Config that all runs start from.
        address: Ray cluster to use; None takes `RAY_ADDRESS` or starts a local one.
        command: Command that the user typed, for the report.
        resume: Command that resumes the experiment, without the folder that follows it.
        note: Receives each note on the inputs, such as prompts that are truncated.
        workers: Command that starts the workers of a local Ray, see `forked_workers`; None lets Ray start them.

    Returns:
        Path of the HTML report.

    Raises:
        ValueError: If an input or the searcher cannot be used, or no trial of a searched arm finished.
        ConnectionError: If the MLflow server cannot be reached.
        CommandInterruptedError: If it was stopped by Ctrl-C.
    """
    check_inputs(base, contrast=False)
    check_searcher(config)
    trained = [apply(base, changes) for _, changes in config.trained_changes()]
    for run in trained:
        check_inputs(run, contrast=False)
        check_sources(run, address)
    trials = [apply(base, changes) for _, changes in config.trial_changes()]
    # Each check reads the weights of the other model.
    for run in {(run.evaluation.contrast_with, run.model): run for run in (*trained, *trials)}.values():
        check_contrast_with(run)
    for run in trials:
        texts = read_texts(run)
        check_leakage(run, texts)
        check_control_words(run, texts)
    require_server(tracking_uri(base))
    planned = plan_budget(config, base)
    base = with_absolute_paths(base)
    runs = list(map(with_absolute_paths, (*trained, *trials)))
    earlier = _earlier_trials(config, base, runs)
    folder = Path(base.run_root) / config.name
    RunFolder(folder).make()
    with folder_lock(folder):
        open_experiment_folder(config, base, runs)
        if earlier:
            keep_earlier_trials(folder, earlier)
        command = first_command(folder, command)
        with ending_runs(RunFolder(folder), partial(run_folders, folder)):
            return _run_parts(config, base, runs, folder, planned, address, command, resume, note, workers)


def _run_parts(
    config: ExperimentConfig,
    base: RunConfig,
    runs: Sequence[RunConfig],
    folder: Path,
    planned: Mapping[str, float],
    address: str | None,
    command: str,
    resume: str,
    note: Callable[[str], object],
    workers: str | None,
) -> Path:
    """Train all parts of an experiment in its open folder, and write the report."""
    commit = git_commit(Path.cwd())
    num_runs = config.num_runs + num_later_runs(config, partial(apply, base))
    start = Progress.start(config.name, "experiment", num_runs, list(searched_metrics(config)))
    with Follower(folder, start, ExperimentPage(folder, config, command, commit)) as follower:
        # The notes import these packages, which takes seconds; so does Ray's start.
        packages = import_steps("torch._dynamo", "diffusers", "transformers", "scipy.optimize")
        forked = workers if all(map(can_fork, runs)) else None
        with begun_in_background(packages) as finish_imports, ray_session(address, forked):
            finish_imports()
            for text in input_notes(base):
                note(text)
            check_cluster(base)
            one_machine = is_one_machine()
            needs = _needs(config, runs)
            config, follows = _with_number(config, needs)
            create = partial(create_database, tracking_uri(base))
            # Trials that train in their own processes start beside the pools, and wait for them.
            until = "placed" if one_machine and all(map(needs_no_worker, runs)) else "open"
            with reward_pools(runs, f"rewards_{config.name}", create, until) as pools:
                budget = budget_terms(config, base, planned)
                if budget:
                    follower.add_facts(partial(_budget_facts, folder, budget))
                experiment = Experiment(
                    base=base,
                    folder=str(folder),
                    pools=pools,
                    parent_run=_parent_run(config, base, folder, commit),
                    resume=resume_command(resume, folder),
                    commit=commit,
                    one_machine=one_machine,
                    start=uuid.uuid4().hex,
                    budget=budget,
                    follows=follows,
                    shares=needs if any(run.training.elastic for run in runs) else None,
                )
                with counting(folder, budget, base, experiment.parent_run):
                    searches, notes = search_arms(experiment, config)
                    arms = train_arms(experiment, config, searches)
        follower.stop()
        return publish(experiment, config, searches, arms, notes, command)


def _parent_run(config: ExperimentConfig, base: RunConfig, folder: Path, commit: str | None) -> str:
    """Start or continue the parent MLflow run of an experiment, and return its id."""
    return start_run(
        tracking_uri(base),
        base.tracking.experiment,
        config.name,
        tags={"git_commit": commit or "unknown", "run_dir": str(folder)},
        params=flatten(config.model_dump(mode="json", exclude={"arms", "ablations"})),
        record=RunFolder(folder).tracker_record,
    )


def _budget_facts(folder: Path, terms: BudgetTerms) -> dict[str, str]:
    """Facts of the status line: what is spent and left of the budget."""
    return {"budget": budget_line(Spending(folder, terms))}


def _needs(config: ExperimentConfig, runs: Sequence[RunConfig]) -> RunNeeds:
    """Collect what the runs of an experiment need.

    Args:
        config: The experiment.
        runs: Configs of its runs.
    """
    trials = sum(arm.num_trials(config.search.num_samples) for arm in config.arms)
    return run_needs(runs, max(trials, sum(len(config.seeds_of(part)) for part in config.parts)))


def _with_number(config: ExperimentConfig, needs: RunNeeds) -> tuple[ExperimentConfig, RunNeeds | None]:
    """Replace `max_concurrent_trials: auto` by what the connected cluster has room for.

    Args:
        config: The experiment.
        needs: What its runs need.

    Returns:
        The experiment with a number, and the needs of its runs if the number follows the cluster.
    """
    if config.max_concurrent_trials != "auto":
        return config, None
    return config.model_copy(update={"max_concurrent_trials": cluster_concurrency(needs)}), needs


def _earlier_trials(config: ExperimentConfig, base: RunConfig, runs: Sequence[RunConfig]) -> dict[str, EarlierTrials]:
    """Trials that the searches start from; empty without any, or if the experiment has begun and knows them."""
    if not config.search.points_from or earlier_trials_file(Path(base.run_root) / config.name).exists():
        return {}
    found = read_earlier_trials(config, base, input_hashes(base, *runs))
    for note in (note for each in found.values() for note in each.notes):
        print(note)
    return found
