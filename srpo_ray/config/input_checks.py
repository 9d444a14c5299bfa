"""Checks of a run across its sections: rewards, control words, images and pairs.

Each function raises a `ValueError` that says what was expected, what came and what to do.
"""

from srpo_ray.config.algorithms.query import QuerySection
from srpo_ray.config.algorithms.registry import types_that
from srpo_ray.config.run_sections import RunSections
from srpo_ray.config.sources import same_model
from srpo_ray.credentials import find_credentials


def check_credentials(run: RunSections) -> None:
    """Refuse credentials in any value."""
    found = list(find_credentials(run.model_dump()))
    if found:
        raise ValueError(
            f"expected no credentials in a config, which is logged and stored with each run, got some in"
            f" {', '.join(found)}; put them into environment variables and write ${{NAME}} for each, or for an"
            " MLflow server set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )


def check_rewards_read_text(run: RunSections) -> None:
    """Refuse trained rewards that read no text where texts are compared."""
    blind = [model.name for model in run.rewards.models if not model.reads_text]
    if blind and run.algorithm.compares_texts and run.algorithm.word_set is None:
        raise ValueError(
            f"expected trained rewards that read text with algorithm.distribution, got {', '.join(blind)}, whose"
            " score is the same for all attributes; remove algorithm.distribution, or move the model to"
            " evaluation.held_out"
        )
    if blind and isinstance(run.algorithm, QuerySection) and run.algorithm.compares_texts:
        raise ValueError(
            f"expected trained rewards that read text for the {run.algorithm.query} query with control words, got"
            f" {', '.join(blind)}, whose score does not depend on control words;"
            f" {run.algorithm.plain_settings}, or move the model to evaluation.held_out"
        )


def check_word_set(run: RunSections) -> None:
    """Refuse control words that are no set of the config."""
    name = run.algorithm.word_set
    if name is not None and name not in run.word_sets:
        raise ValueError(
            f"expected algorithm.control_words to name one of word_sets ({', '.join(sorted(run.word_sets))}),"
            f" got {name!r}; choose one of them or add word_sets.{name} with `positive` and `negative` lists"
        )


def check_comparisons(run: RunSections) -> None:
    """Refuse a reward that compares images with an algorithm that cannot use it."""
    names = [model.name for model in run.rewards.models if model.compares_pairs]
    if names:
        run.algorithm.check_comparisons(names, len(run.rewards.models))


def check_images(run: RunSections) -> None:
    """Refuse real images with an algorithm that reads none, and a share that it cannot use."""
    if run.data.images and run.algorithm.inputs.images != "optional":
        others = types_that(lambda needs: needs.images == "optional")
        raise ValueError(
            f"expected data.images to be unset with algorithm.type={run.algorithm.type}, got"
            f" {run.data.images!r}; the algorithm trains on other images, so unset data.images or choose {others}"
        )
    run.algorithm.check_images(run.data.images, run.data.image_ratio)


def check_pairs(run: RunSections) -> None:
    """Refuse judged images without an algorithm that reads them, and the reverse."""
    judged, pairs = run.algorithm.judged, run.data.pairs
    if judged and not pairs:
        raise ValueError(
            f"expected data.pairs with algorithm.type={run.algorithm.type}, which trains on {judged}, got none;"
            f" name a .jsonl file of judged images, or small_world:{judged}"
        )
    if pairs and not judged:
        others = types_that(lambda needs: needs.images == "pairs")
        raise ValueError(
            f"expected data.pairs to be unset with algorithm.type={run.algorithm.type}, got {pairs!r}; its updates"
            f" read no judged images, so unset data.pairs, or choose {others} with source pairs or labels"
        )


def check_rewards(run: RunSections) -> None:
    """Refuse a run without a reward that it needs, or without any score."""
    if not run.rewards.models and run.algorithm.inputs.reward != "none":
        others = types_that(lambda needs: needs.reward == "none")
        raise ValueError(
            f"expected at least one model in rewards.models with algorithm.type={run.algorithm.type}, got none;"
            f" its updates need a reward, so add one or choose {others}"
        )
    if not run.rewards.models and not run.evaluation.held_out:
        raise ValueError(
            "expected at least one model in rewards.models or evaluation.held_out, got none; evaluations need a"
            " score, so add a model to evaluation.held_out"
        )


def check_data_anchor(run: RunSections) -> None:
    """Refuse an anchor to real images without them, or on kept images."""
    rollout, weight = run.rollout, run.algorithm.anchor.data
    if weight and not run.data.images:
        raise ValueError(
            f"expected data.images with algorithm.anchor.data={weight:g}, got none; the anchor trains on real"
            " images with captions, so name them, or remove the anchor"
        )
    if weight and (rollout.reuse > 1 or rollout.source != "policy"):
        raise ValueError(
            f"expected rollout.reuse=1 and rollout.source=policy with algorithm.anchor.data={weight:g}, got"
            f" reuse={rollout.reuse} and source={rollout.source}; kept images would count as real ones, so remove"
            " these keys or the anchor"
        )


def check_image_ratio(run: RunSections) -> None:
    """Refuse a share of real images that is no whole number of a forward pass."""
    ratio = run.data.image_ratio
    size = run.training.pass_size
    if abs(ratio * size - round(ratio * size)) > 1e-6:
        raise ValueError(
            f"expected data.image_ratio = {ratio:g} to be a whole number of the {size} samples of a forward pass"
            f" (training.micro_batch_size, or a worker's share of training.batch_size), got {ratio * size:g};"
            " every pass must have the same number of rollouts, so choose another ratio or size"
        )


def check_reward_names(run: RunSections) -> None:
    """Refuse two reward models of one name."""
    trained = [model.name for model in run.rewards.models]
    names = trained + [model.name for model in run.evaluation.held_out]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            "expected every reward model of rewards.models and evaluation.held_out to have a unique name,"
            f" got {', '.join(repeated)} more than once; a held-out model must not be a trained one"
        )


def check_held_out(run: RunSections) -> None:
    """Refuse a held-out model that is trained on."""
    for evaluator in run.evaluation.held_out:
        for model in run.rewards.models:
            if same_model(evaluator, model):
                raise ValueError(
                    f"expected models in evaluation.held_out that are not trained on, got {evaluator.name!r}, which"
                    f" is the trained model {model.name!r} under another name; its score would rise with the"
                    " training reward and hide reward hacking, so take another checkpoint or remove one of the two"
                )
