"""Memory of what a worker keeps of an update's images from their rollout to the optimizer's last step."""

from srpo_ray.config import RunConfig
from srpo_ray.planning.accounting import Part, present
from srpo_ray.planning.cost import image_bytes
from srpo_ray.planning.schedule import largest_share, schedule

FLOAT32 = 4


def kept_parts(config: RunConfig) -> tuple[Part, ...]:
    """Compute the tensors of all images of an update on one worker, on the device of the transformer.

    Values of one number per image or state, such as rewards, advantages and log-densities, are not counted.

    Args:
        config: The run.
    """
    plan = schedule(config)
    passes = largest_share(config)
    images, one = passes * plan.images, image_bytes(config.model)
    # The images of a single prompt share its features.
    texts = passes if config.training.pass_size == 1 else images
    texts += images if config.algorithm.uses_own_captions else 0
    given = config.algorithm.calls(config.rollout.num_steps).given_images
    return present(
        Part("latents for the losses", round(images * plan.kept * one.tokens)),
        Part("given images", images * given * one.tokens if _may_be_given(config) else 0),
        Part("text features", texts * one.text),
    )


def joined_parts(config: RunConfig) -> tuple[Part, ...]:
    """Compute the copies of the inputs of all micro-batches whose images `rollout.batch_size` samples together."""
    images, one = largest_share(config) * schedule(config).images, image_bytes(config.model)
    each = one.text + (one.tokens if _may_be_given(config) else 0)
    return present(Part("inputs of larger rollouts", images * each if config.rollout_passes > 1 else 0))


def call_text(config: RunConfig) -> Part:
    """Compute the copy of text features in a call for several images of a single prompt."""
    images = schedule(config).decoded
    alone = config.training.pass_size == 1 and images > 1
    return Part("text features of a call", images * image_bytes(config.model).text if alone else 0)


def waiting_pixels(config: RunConfig, sizes: tuple[int, ...]) -> Part:
    """Compute the pixels of scored images, which their requests keep until all images of the update are sampled.

    Losses that decode images get their scores before the next ones. Workers that share the tokens of an image keep it
    whole.

    Args:
        config: The run.
        sizes: Input sizes of the trained rewards, in pixels per side.
    """
    plan = schedule(config)
    waiting = 0 if plan.decodes else plan.scores_per_image
    shared = config.training.context_parallel > 1
    framed = {side**2 for side in sizes}
    one = FLOAT32 * sum(3 * pixels for pixels in (framed | {config.model.size.num_pixels} if shared else framed))
    return Part("pixels of scored images", largest_share(config) * plan.images * waiting * one)


def _may_be_given(config: RunConfig) -> bool:
    """True if micro-batches may have clean images: real or judged ones, those of the base model, or reused rollouts."""
    rollout = config.rollout
    return bool(config.data.images or config.data.pairs) or rollout.source == "base_model" or rollout.reuse > 1
