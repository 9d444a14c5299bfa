"""Options of the contrastive loss over captions."""

from pydantic import Field

from srpo_ray.config.base import Section


class Contrastive(Section):
    """Logits of the captions of a forward pass for an image: `scale * exp(-e / temperature)` of the errors e."""

    temperature: float = Field(default=0.07, gt=0)
    """Error that lowers a logit by the factor exp(-1), above 0; in the space `error_space`. Published: 0.07 (SoftREPA).
    """
    scale: float = Field(default=4.0, gt=0)
    """Logit of a caption without error, above 0. Published: 4 (SoftREPA)."""
