"""Section `rewards`: the reward models of a run, and the pool of Ray actors that serves them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import LONGEST_WAIT_S, NumGpus, Resources, Section
from srpo_ray.config.count import Count, largest, smallest

LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
"""Value of a label of a Ray node; operators of Ray's selectors, such as `!spot`, are not values."""

Fit = Literal["crop", "pad", "squash"]
"""Conversion of an image to a square: crop the long side, pad the short side with black, or stretch."""


class RewardModelSection(Section):
    """Common fields of the config classes of reward models."""

    reads_text: ClassVar[bool] = True
    """True if the score depends on the prompt; a relative reward needs such a model."""
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Unique name of the reward model in metrics, messages and tables."""
    weight: float = 1.0
    """Weight of this model's score in the training reward; unused for held-out models."""
    spread: float | None = Field(default=None, gt=0)
    """Standard deviation of the score over images of the same prompt, above 0; `rewards.normalize` divides by it.
    `python -m srpo_ray.evaluation.reward_spread runs/NAME` prints it."""


class OpenClipRewardConfig(RewardModelSection):
    """Cosine similarity of image and text features of an open_clip model, such as CLIPScore and HPSv2.1."""

    type: Literal["open_clip"] = "open_clip"
    path: str = Field(min_length=1)
    """Folder with `open_clip_config.json` and weights, `hf-hub:ORG/NAME`, or `small_world:NAME`; with `architecture`,
    a checkpoint file or `hf-hub:ORG/NAME/FILE`."""
    architecture: str | None = None
    """Architecture in open_clip of a bare checkpoint file, such as `ViT-H-14` for HPSv2.1."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Expected SHA-256 of the checkpoint file; only with `architecture`."""
    scale: float = Field(default=1.0, gt=0)
    """Factor between the cosine similarity and the published score (100 for a score in percent), above 0."""
    fit: Fit = "crop"
    """Conversion of images to squares: `pad` is that of HPSv2.1, `crop` that of CLIP and of SRPO's released code."""
    antialias: bool = True
    """Antialias when float images are reduced. `false` is the behaviour of torchvision before 0.17 for tensors, for
    comparison with HPSv2 scores published with it. PIL always antialiases; `preprocessing: official` uses PIL with
    every `fit` except `pad`."""

    @model_validator(mode="after")
    def _check_hash(self) -> Self:
        if self.sha256 and not self.architecture:
            raise ValueError(
                f"expected sha256 only with architecture, got it for {self.path!r}, which is not a single file; remove"
                " it"
            )
        return self


class TransformersClipRewardConfig(RewardModelSection):
    """Cosine similarity of image and text features of a `transformers.CLIPModel`, such as PickScore and CLIPScore."""

    type: Literal["transformers_clip"] = "transformers_clip"
    path: str = Field(min_length=1)
    """Folder or hub id of the model, such as `yuvalkirstain/PickScore_v1`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer, if `path` has none; unset uses `path`."""
    logit_scale: bool = False
    """Multiply the cosine similarity by the model's exp(logit_scale), as in PickScore's published scores."""
    scale: float = Field(default=1.0, gt=0)
    """Further factor of the score, above 0: 0.05 for the PickScore of SRPO's training (published score / 20)."""


class AestheticRewardConfig(RewardModelSection):
    """Aesthetic score, independent of the prompt: LAION's aesthetic predictor v2, Aesthetic Predictor v2.5."""

    reads_text: ClassVar[bool] = False
    type: Literal["aesthetic"] = "aesthetic"
    path: str = Field(min_length=1)
    """File of the head's weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Expected SHA-256 of the head's file."""
    backbone: str = Field(min_length=1)
    """Folder or hub id of the model of the head's image features: `openai/clip-vit-large-patch14` for LAION's head,
    `google/siglip-so400m-patch14-384` for v2.5."""


class ImageRewardConfig(RewardModelSection):
    """ImageReward v1, a BLIP model trained on human rankings; texts are truncated to 35 tokens."""

    type: Literal["image_reward"] = "image_reward"
    path: str = Field(default="hf-hub:THUDM/ImageReward/ImageReward.pt", min_length=1)
    """File of the weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Expected SHA-256 of the file."""
    tokenizer: str = Field(default="google-bert/bert-base-uncased", min_length=1)
    """Folder or hub id of BERT's lower-case English tokenizer."""


class PythonRewardConfig(RewardModelSection):
    """Custom reward: a class with the `Reward` interface, given by its import path."""

    type: Literal["python"] = "python"
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Class as `package.module:Class`; it is called with `arguments` as keywords."""
    arguments: dict[str, str | int | float | bool] = {}
    """Keyword arguments of the class; `${NAME}` in a text is replaced by that environment variable."""


RewardModelConfig = Annotated[
    OpenClipRewardConfig
    | TransformersClipRewardConfig
    | ImageRewardConfig
    | AestheticRewardConfig
    | PythonRewardConfig,
    Field(discriminator="type"),
]


class PoolConfig(Section):
    """Reward pool: Ray actors with the reward models, separate from the trainer workers."""

    num_replicas: Count = 1
    """Replicas of the reward models, each in a separate process: a number, or `{min: 1, max: 8}` for autoscaling."""
    one_model_each: bool = False
    """Load one model per replica instead of all; every model then has `num_replicas` replicas."""
    max_ongoing_requests: int = Field(default=8, ge=1)
    """Maximum number of unanswered requests per replica. Beyond it, trainers wait before they send pixels
    (back-pressure)."""
    upscale_queue_length: float = Field(default=2.0, ge=0)
    """Queue length above which the pool adds a replica, in waiting requests per replica; only for a range."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """Seconds for which the queue must exceed `upscale_queue_length` without a break before a replica is added."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """Idle seconds after which a replica is removed: it gets no request, and none is waiting; only for a range."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs that one replica reserves."""
    num_gpus: NumGpus = 0.0
    """Ray GPUs that one replica reserves: an integer, or a fraction of one GPU."""
    resources: Resources = {}
    """Custom Ray resources that one replica reserves, for example `{reward_slot: 1}`."""
    labels: dict[str, LabelValue] = {}
    """Labels of the Ray nodes that replicas may run on, for example `{role: reward}`; empty allows any node."""
    num_threads: int = Field(default=1, ge=1)
    """Torch threads of one replica, for reward models on the CPU."""
    micro_batch_size: int = Field(default=16, ge=1)
    """Maximum number of images in one forward pass of a replica, and in one request."""
    max_attempts: int = Field(default=3, ge=1)
    """Maximum number of attempts of one request, including those lost with a replica, before the run stops."""
    timeout_s: float = Field(default=300.0, gt=0, le=LONGEST_WAIT_S)
    """Timeout of one request in seconds, above 0; after it, the replica counts as lost and is restarted."""
    wire_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of pixels and gradients between trainer and replica. `bfloat16` halves the communication volume and
    rounds to 8 significant bits: pixels by at most half a step of 1/255, which changes scores accordingly, and
    gradients by at most 0.4 %. Official evaluations send pixels in float32."""

    @property
    def replica_resources(self) -> dict[str, float]:
        """Resources that one replica reserves, by Ray's names; zeros are left out."""
        resources = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in resources.items() if amount > 0}

    def least_replicas(self, num_models: int) -> int:
        """Minimum number of replicas of a pool with `num_models` models."""
        return smallest(self.num_replicas) * (num_models if self.one_model_each else 1)

    def most_replicas(self, num_models: int) -> int:
        """Maximum number of replicas of a pool with `num_models` models."""
        return largest(self.num_replicas) * (num_models if self.one_model_each else 1)


class RewardsConfig(Section):
    """Section `rewards`: the trained reward models, and the processes that score images."""

    models: tuple[RewardModelConfig, ...] = Field(min_length=1)
    """Reward models whose weighted sum is the training reward."""
    normalize: bool = False
    """Normalize the weighted sum: divide every score by its model's `spread`, so that equal weights have equal
    effect."""
    in_process: bool = False
    """Score in the trainer process instead of a pool; for tests and as the reference of overhead measurements."""
    pool: PoolConfig = PoolConfig()

    @property
    def factors(self) -> dict[str, float]:
        """Factor of each model's score in the training reward: weight, divided by `spread` with `normalize`."""
        spreads = {model.name: (self.normalize and model.spread) or 1.0 for model in self.models}
        return {model.name: model.weight / spreads[model.name] for model in self.models}

    @model_validator(mode="after")
    def _check_spreads(self) -> Self:
        without = [model.name for model in self.models if model.spread is None]
        if self.normalize and without:
            raise ValueError(
                f"expected a spread for every model with normalize: true, got none for {', '.join(without)}; take it"
                " from a run without normalize: `python -m srpo_ray.evaluation.reward_spread runs/NAME` prints those of"
                " its models"
            )
        return self
