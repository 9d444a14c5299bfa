"""Checks before any process starts: prompts, model folder, compatibility of rewards and algorithm, run folder."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srpo_ray.algorithms.registry import algorithm_class
from srpo_ray.config import RunConfig, to_yaml
from srpo_ray.config.load import ConfigError, load_run
from srpo_ray.credentials import expand_uri
from srpo_ray.data.sizes import nearest_size
from srpo_ray.data.texts import read_texts
from srpo_ray.files import write_text
from srpo_ray.imports import by_one_thread, large_imports
from srpo_ray.launch.control_words import check_control_words, unread_words_notes
from srpo_ray.launch.cut_texts import reward_cut_notes
from srpo_ray.launch.leakage import check_leakage, leakage_notes
from srpo_ray.launch.reward_checks import check_reward_prompts, check_rewards
from srpo_ray.models.distilled import check_guidance, check_likelihood, distilled_note
from srpo_ray.models.families import family_of
from srpo_ray.models.family_checks import check_family
from srpo_ray.models.paths import resolve_path
from srpo_ray.models.prompt_length import check_text_length, cut_prompts
from srpo_ray.models.sigma_grid import scheduler_note, sigma_grid
from srpo_ray.models.sizes import check_sizes, stored_config
from srpo_ray.models.tiny_decoder import check_decoder
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import input_hashes, keep_inputs
from srpo_ray.runs.start_from import check_start
from srpo_ray.runs.storage import below, require_writable
from srpo_ray.small_world.truth import RENDERED, check_embedded_size, check_truth_size
from srpo_ray.tracking.runs import tracking_uri
from srpo_ray.tracking.server import check_database
from srpo_ray.tracking.sinks import check_sinks

ANOTHER_NAME = "choose another `name` or remove the folder"
"""Advice to a user whose run folder belongs to another run."""


def check_inputs(config: RunConfig, *, contrast: bool = True) -> None:
    """Check the inputs of a run.

    Args:
        config: The run.
        contrast: Check the other model of the contrast in evaluations too, which reads its weights.

    Raises:
        ValueError: If prompts, images, the model folder, its decoder or its scheduler cannot be used; if the Python
            environment of a reward cannot be made or used; if the algorithm needs a gradient that a reward lacks, or a
            step that does not fit in its window; if the attention kernel needs a GPU that the run has not; if the LoRA
            to start from or a name in `target_modules` does not fit the model; if workers cannot hold the other model
            of the contrast in evaluations; if the model's family lacks something that the run sets or takes no texts of
            that length, or the model is distilled and the run asks for guidance; if the loss takes errors for
            likelihoods and the run asks for guided velocities; if workers cannot share the model's heads and tokens
            equally, or it cannot draw images of a size; if MLflow's address is invalid, names an environment variable
            that is not set or a database without its package, or another tracker lacks its package or key; if the run
            cannot continue from the run that `start_from` names; if the run would be judged by what it trains on; or if
            prompts have control words that the algorithm does not use, or lack those that it uses.
    """
    check_rewards(config)
    check_attention_device(config)
    check_model(config.model.path)
    check_family(config, family_of(config.model.path))
    lora = config.model.lora
    if lora and (lora.start_from or lora.target_modules):
        # Imports the model stack, which other runs load while their reward models load.
        from srpo_ray.models.lora_start import check_lora_start, check_target_modules

        check_target_modules(config.model)
        check_lora_start(config.model)
    if contrast:
        check_contrast_with(config)
    check_guidance(config)
    check_likelihood(config)
    check_text_length(resolve_path(config.model.path), config.model.max_sequence_length)
    check_decoder(config.model)
    check_image_sizes(config)
    if config.training.context_parallel > 1:
        # Imports the model stack, which other runs load while their reward models load.
        from srpo_ray.planning.context import check_context_parallel

        check_context_parallel(config)
    check_grids(config)
    expand_uri(tracking_uri(config))
    check_database(tracking_uri(config))
    check_start(config)
    check_sinks(config.tracking)
    texts = read_texts(config)
    check_reward_prompts(config, texts)
    check_leakage(config, texts)
    check_control_words(config, texts)


def check_contrast_with(config: RunConfig) -> None:
    """Check that the workers of a run can hold the other model of the contrast in its evaluations, if it has one.

    Raises:
        ValueError: If they cannot.
    """
    if config.evaluation.contrast_with:
        # Imports the model stack, which other runs load while their reward models load.
        from srpo_ray.runs.other_model import check_other_model

        check_other_model(config)


def check_attention_device(config: RunConfig) -> None:
    """Check that a run with a GPU kernel for its attention has GPUs. Each worker then runs the kernel at its start.

    Raises:
        ValueError: If the run trains on the CPU.
    """
    kernel = config.model.attention
    if kernel != "native" and not config.training.num_gpus:
        raise ValueError(
            f"expected model.attention=native on the CPU, got {kernel} with training.num_gpus=0; reserve GPUs with"
            " training.num_gpus=1, or remove model.attention"
        )


def check_model(path: str) -> None:
    """Check that the path is a pipeline of a known family, without reading weights.

    Raises:
        ValueError: If there is no pipeline, it cannot be read, or its folder lacks a part.
    """
    family = family_of(path)
    folder = Path(resolve_path(path))
    missing = [part for part in family.parts if folder.is_dir() and not (folder / part).exists()]
    if missing:
        raise ValueError(
            f"model.path: expected a folder with a {family.pipeline} in the diffusers layout, got {path!r}, which has"
            f" no {', '.join(missing)}; give the folder that `{family.pipeline}.save_pretrained` wrote"
        )


def check_image_sizes(config: RunConfig) -> None:
    """Check that the model can draw images of all sizes of a run, and that small-world images have 64 x 64 pixels.

    Raises:
        ValueError: If it cannot.
    """
    path = config.model.path
    check_sizes(path, config.image_sizes, stored_config(path))
    evaluation, tested = config.evaluation, config.evaluation.tested
    check_truth_size("evaluation.resolution", evaluation.prompts, config.model_at(evaluation).size)
    if tested:
        check_truth_size("evaluation.test.resolution", tested.prompts, config.model_at(tested).size)
    for key, source in (("data.images", config.data.images), ("data.pairs", config.data.pairs)):
        check_embedded_size(key, source or "", nearest_size([RENDERED], config.model.all_sizes))


def check_grids(config: RunConfig) -> None:
    """Check the sigma grids of the sampler and of the algorithm's window, and that its steps fit in the window.

    Raises:
        ValueError: If the config selects the model's scheduler and it cannot be used, or the steps do not fit.
    """
    for each in config.at_sizes:
        grid = sigma_grid(each.model)
        grid(config.rollout.num_steps, config.rollout.shift)
        algorithm_class(config.algorithm).check_grid(config.algorithm, grid)
        algorithm_class(config.algorithm).check_points(config.algorithm, config.rollout, grid)
    for evaluation in (config.evaluation, config.evaluation.tested):
        if evaluation:
            sigma_grid(config.model_at(evaluation))(evaluation.num_steps, config.rollout.shift)


def input_notes(config: RunConfig) -> list[str]:
    """List notes on a run's inputs for the user: those of `text_notes`, then those of `model_notes`.

    Raises:
        ValueError: If a text file, a tokenizer or the scheduler cannot be read.
    """
    with by_one_thread(), large_imports():
        return [*text_notes(config), *model_notes(config)]


def text_notes(config: RunConfig) -> list[str]:
    """List notes on a run's texts for the user: skipped, repeated or cut ones, and control words that nothing reads.

    Raises:
        ValueError: If a text file or a tokenizer cannot be read.
    """
    texts = read_texts(config)
    path, length = resolve_path(config.model.path), config.model.max_sequence_length
    conditioning = {f"{key}, conditioning" if rows.rewritten else key: rows for key, rows in texts.by_key.items()}
    cut = {key: cut_prompts(path, rows.conditioning, length) for key, rows in conditioning.items()}
    cuts = (f"{key}: {each.note}" for key, found in cut.items() for each in found)
    return [
        *leakage_notes(texts),
        *texts.notes,
        *unread_words_notes(config, texts),
        *cuts,
        *reward_cut_notes(config, texts),
    ]


def model_notes(config: RunConfig) -> list[str]:
    """List notes on settings other than the model's usual ones. Imports diffusers, which takes seconds.

    Raises:
        ValueError: If the scheduler cannot be read.
    """
    scheduler = scheduler_note(config.model, config.rollout.num_steps, config.rollout.shift)
    model = [note for note in (scheduler, distilled_note(resolve_path(config.model.path))) if note]
    return [*model, *losses_notes(config)]


def losses_notes(config: RunConfig) -> list[str]:
    """Note that several workers keep fewer losses in flight than the algorithm does on one worker."""
    used, usual = config.losses_in_flight, config.algorithm_losses_in_flight
    if config.training.losses_in_flight or used == usual:
        return []
    return [
        f"training.losses_in_flight: {used} with several workers, not the {usual} of algorithm.type"
        f" {config.algorithm.type}, because ZeRO-3 prefetches weights only then; set it to choose another number"
    ]


def open_run_folder(config: RunConfig, path: Path) -> RunFolder:
    """Create the run's folder, or open it to resume with the same config and the same inputs.

    The inputs of a finished run are compared too: its results do not belong to changed files.

    Raises:
        ValueError: If the folder cannot be written, it belongs to a run with another config, or the content of an
            input has changed since the run started.
    """
    folder = RunFolder(path)
    folder.make()
    if folder.config.exists():
        _require_same(config, folder)
    else:
        folder.inputs.unlink(missing_ok=True)
    results = (folder.updates, folder.evaluations, folder.finished)
    has_results = folder.config.exists() and any(file.exists() for file in results)
    keep_inputs(folder.inputs, input_hashes(config), has_results=has_results, cure=ANOTHER_NAME)
    storage = config.training.checkpoint_storage
    if storage and not folder.finished.exists():
        require_writable(storage, "training.checkpoint_storage")
    if storage and not folder.checkpoint_place.exists():
        # Runs with equal names, such as the trials of two sweeps, may share a bucket.
        write_text(folder.checkpoint_place, below(storage, f"{folder.path.name}-{uuid.uuid4().hex[:8]}") + "\n")
    if not folder.config.exists():
        write_text(folder.config, to_yaml(config))
    return folder


@contextmanager
def release_folder_on_early_failure(folder: RunFolder) -> Iterator[None]:
    """Free the folder for another config if the block ends before the run starts, for example on a small cluster."""
    try:
        yield
    finally:
        if not folder.tracker_record.exists():
            folder.config.unlink(missing_ok=True)
            folder.inputs.unlink(missing_ok=True)
            folder.checkpoint_place.unlink(missing_ok=True)


def _require_same(config: RunConfig, folder: RunFolder) -> None:
    try:
        same = load_run([folder.config]) == config
    except ConfigError:
        same = False
    if not same:
        raise ValueError(
            f"expected {folder.path} to be new or to contain this same run, got a run with another config"
            f" ({folder.config}); choose another `name`, or remove the folder"
        )
