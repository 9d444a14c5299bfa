"""The reward models of a run and the pool of Ray actors that serves them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import LONGEST_WAIT_S, NumGpus, Resources, Section
from srpo_ray.config.count import Count, largest, smallest

LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
"""Value of a label of a Ray node; the operators of Ray's selectors, such as `!spot`, are none."""

Fit = Literal["crop", "pad", "squash"]
"""How an image that is no square becomes one: its long side cut, its short side filled with black, or squashed."""


class RewardModelSection(Section):
    """What the config class of every reward model shares."""

    reads_text: ClassVar[bool] = True
    """Whether the score depends on the prompt; without that there is no difference of texts to train on."""
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Unique name of the model in metrics, messages and tables."""
    weight: float = 1.0
    """Factor of this model's score in the sum that is trained on; unused for held-out models."""
    spread: float | None = Field(default=None, gt=0)
    """Standard deviation of the score over images of the same prompt, which `rewards.normalize` divides by;
    `python -m srpo_ray.evaluation.reward_spread runs/NAME` prints it."""


class OpenClipRewardConfig(RewardModelSection):
    """Cosine between image and text features of an open_clip model: CLIPScore, HPSv2.1 and their like."""

    type: Literal["open_clip"] = "open_clip"
    path: str = Field(min_length=1)
    """Folder with `open_clip_config.json` and weights, `hf-hub:ORG/NAME`, or `small_world:NAME`; with `architecture`
    a checkpoint file, or `hf-hub:ORG/NAME/FILE`."""
    architecture: str | None = None
    """Architecture of open_clip that a bare checkpoint file belongs to, such as `ViT-H-14` for HPSv2.1."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What the checkpoint file must hash to; only with `architecture`."""
    scale: float = Field(default=1.0, gt=0)
    """Factor between the cosine and the published score (100 for a score in percent)."""
    fit: Fit = "crop"
    """How images become squares: `pad` is HPSv2.1's own way, `crop` that of CLIP and of SRPO's released code."""
    antialias: bool = True
    """Low-pass filter when float images are made smaller. `false` is how torchvision before 0.17 resized tensors, for
    comparison with HPSv2 scores that were published with it; PIL, which `preprocessing: official` resizes with under
    any `fit` but `pad`, always filters."""

    @model_validator(mode="after")
    def _check_hash(self) -> Self:
        if self.sha256 and not self.architecture:
            raise ValueError(
                f"expected sha256 only with architecture, got it for {self.path!r}, which is no single file; remove it"
            )
        return self


class TransformersClipRewardConfig(RewardModelSection):
    """Cosine between image and text features of a `transformers.CLIPModel`: PickScore, CLIPScore."""

    type: Literal["transformers_clip"] = "transformers_clip"
    path: str = Field(min_length=1)
    """Folder or hub id of the model, such as `yuvalkirstain/PickScore_v1`."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer where the model's has none; unset takes `path`."""
    logit_scale: bool = False
    """Multiply the cosine by the model's exp(logit_scale), as PickScore's published scores are."""
    scale: float = Field(default=1.0, gt=0)
    """One more factor: 0.05 for the PickScore that SRPO was trained with, published / 20."""


class AestheticRewardConfig(RewardModelSection):
    """How good an image looks, whatever its prompt: LAION's aesthetic predictor v2, Aesthetic Predictor v2.5."""

    reads_text: ClassVar[bool] = False
    type: Literal["aesthetic"] = "aesthetic"
    path: str = Field(min_length=1)
    """File of the head's weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What the head's file must hash to."""
    backbone: str = Field(min_length=1)
    """Folder or hub id of the model whose image features the head reads: `openai/clip-vit-large-patch14` for LAION's
    head, `google/siglip-so400m-patch14-384` for v2.5."""


class ImageRewardConfig(RewardModelSection):
    """ImageReward v1, a BLIP model that was trained on human rankings; its texts are cut at 35 tokens."""

    type: Literal["image_reward"] = "image_reward"
    path: str = Field(default="hf-hub:THUDM/ImageReward/ImageReward.pt", min_length=1)
    """File of the weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What the file must hash to."""
    tokenizer: str = Field(default="google-bert/bert-base-uncased", min_length=1)
    """Folder or hub id of BERT's lower-case English tokenizer."""


class PythonRewardConfig(RewardModelSection):
    """A reward of your own: a class with the `Reward` interface, named by its import path."""

    type: Literal["python"] = "python"
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`; the class is called with `arguments` as keywords."""
    arguments: dict[str, str | int | float | bool] = {}
    """Keyword arguments of the class; `${NAME}` in a text stands for a variable of the environment."""


RewardModelConfig = Annotated[
    OpenClipRewardConfig
    | TransformersClipRewardConfig
    | ImageRewardConfig
    | AestheticRewardConfig
    | PythonRewardConfig,
    Field(discriminator="type"),
]


class PoolConfig(Section):
    """Ray actors that hold the reward models, apart from the trainers."""

    num_replicas: Count = 1
    """Copies of the reward models, each in a process of its own: a number, or `{min: 1, max: 8}` to follow the work."""
    one_model_each: bool = False
    """Give a replica one model and not all of them; there are then `num_replicas` of every model."""
    max_ongoing_requests: int = Field(default=8, ge=1)
    """Calls that a replica may have been sent and not answered; beyond it, trainers wait before they send pixels."""
    upscale_queue_length: float = Field(default=2.0, ge=0)
    """Waiting calls per replica, above which a range grows."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """Seconds without a break that more must wait before one replica is added; a shorter burst is waited out."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """Seconds without a call, and with no call waiting, after which a replica of a range is removed."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs that one replica reserves."""
    num_gpus: NumGpus = 0.0
    """Ray GPUs that one replica reserves; may be a fraction."""
    resources: Resources = {}
    """Custom Ray resources that one replica reserves, for example `{reward_slot: 1}`."""
    labels: dict[str, LabelValue] = {}
    """Labels of Ray nodes that replicas may run on, for example `{role: reward}`; empty takes any node."""
    num_threads: int = Field(default=1, ge=1)
    """Torch threads of one replica, for models on the CPU."""
    micro_batch_size: int = Field(default=16, ge=1)
    """Most images in one forward pass of a replica, and in one call to it."""
    max_attempts: int = Field(default=3, ge=1)
    """How often one call is sent before the run stops, counting calls lost with a replica."""
    timeout_s: float = Field(default=300.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds that one call may take before its replica counts as lost and is restarted."""
    wire_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of pixels and gradients between trainer and replica. `bfloat16` halves the bytes and rounds to 8
    significant bits: pixels, and with them scores, by at most half a step of 1/255, and gradients by at most 0.4 %.
    Official evaluations use float32 for pixels."""

    @property
    def replica_resources(self) -> dict[str, float]:
        """Resources that one replica reserves, by Ray's names; zeros are left out."""
        resources = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in resources.items() if amount > 0}

    def least_replicas(self, num_models: int) -> int:
        """Fewest replicas of a pool of so many models."""
        return smallest(self.num_replicas) * (num_models if self.one_model_each else 1)

    def most_replicas(self, num_models: int) -> int:
        """Most replicas of a pool of so many models."""
        return largest(self.num_replicas) * (num_models if self.one_model_each else 1)


class RewardsConfig(Section):
    """Section `rewards`: what is trained on, and where it is computed."""

    models: tuple[RewardModelConfig, ...] = Field(min_length=1)
    """The models whose weighted sum is the training reward."""
    normalize: bool = False
    """Divide every score in the sum by its model's `spread`, so that equal weights pull equally."""
    in_process: bool = False
    """Score inside the trainer process; for tests and as the base of overhead measurements."""
    pool: PoolConfig = PoolConfig()

    @property
    def factors(self) -> dict[str, float]:
        """What each model's score is multiplied with in the sum that is trained on."""
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
