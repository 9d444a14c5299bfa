"""Config sections of the reward models and of the pool of Ray actors that serves them."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import LONGEST_WAIT_S, NumGpus, Resources, Section
from srpo_ray.config.count import Count, largest, smallest
from srpo_ray.config.home import HomePath
from srpo_ray.config.reward_environment import EnvironmentSection
from srpo_ray.config.reward_section import Fit as Fit
from srpo_ray.config.reward_section import RewardModelSection as RewardModelSection
from srpo_ray.config.served_rewards import (
    HttpRewardConfig,
    JudgeRewardConfig,
    OcrRewardConfig,
    QuestionsRewardConfig,
)

LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
"""Value of a Ray node label; operators of Ray's label selectors, such as `!spot`, are not allowed."""


class BuiltInRewardSection(RewardModelSection):
    """Fields of the reward models that this package loads."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the image encoder. `bfloat16` halves its weights and activations and rounds scores and gradients;
    `python -m srpo_ray.launch.reward_precision` compares its gradients with float32. Text encoders and heads always
    compute in float32."""


class CommonTextSection(Section):
    """Reduction of the text direction that all prompts have in common, the text-irrelevant part of a preference score.

    Source: LongAlign, arXiv 2410.11817, which estimates the direction from the batch; here it comes from a fixed file,
    so that a score depends on its image and texts alone.
    """

    weight: float = Field(default=0.3, ge=0, le=1)
    """Share of the common direction that text features keep, in [0, 1]: 1 changes nothing, 0 removes the direction;
    0.3 as published."""
    prompts: HomePath = Field(min_length=1)
    """Text file with one prompt per line, or `small_world:train`; the direction is that of the mean of their unit text
    features. Every node must be able to read the file."""


class ClipRewardSection(BuiltInRewardSection):
    """Fields of the rewards that are the cosine similarity of image and text features."""

    common: CommonTextSection | None = None
    """Reduction of the common text direction; unset keeps the text features."""


class OpenClipRewardConfig(ClipRewardSection):
    """Cosine similarity of image and text features of an open_clip model, such as CLIPScore and HPSv2.1."""

    type: Literal["open_clip"] = "open_clip"
    path: HomePath = Field(min_length=1)
    """Folder with `open_clip_config.json` and weights, `hf-hub:ORG/NAME`, or `small_world:NAME`; with `architecture`
    a checkpoint file, or `hf-hub:ORG/NAME/FILE`."""
    architecture: str | None = None
    """Architecture name in open_clip of a bare checkpoint file, such as `ViT-H-14` for HPSv2.1."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Required SHA-256 of the checkpoint file; only with `architecture`."""
    scale: float = Field(default=1.0, gt=0)
    """Factor between the cosine and the published score (100 for a score in percent)."""
    fit: Fit = "crop"
    """Resize to a square: HPSv2.1 uses `pad`, CLIP and SRPO's released code use `crop`."""
    antialias: bool = True
    """Low-pass filter when float images are downscaled. `false` resizes as torchvision before 0.17 did, for comparison
    with HPSv2 scores that were published with it. PIL, which `preprocessing: official` uses for any `fit` but `pad`,
    always filters."""

    @model_validator(mode="after")
    def _check_hash(self) -> Self:
        if self.sha256 and not self.architecture:
            raise ValueError(
                f"expected sha256 only with architecture, got it for {self.path!r}, which is not a single file;"
                " remove it"
            )
        return self


class TransformersClipRewardConfig(ClipRewardSection):
    """Cosine similarity of image and text features of a `transformers.CLIPModel`, such as PickScore and CLIPScore."""

    type: Literal["transformers_clip"] = "transformers_clip"
    path: HomePath = Field(min_length=1)
    """Folder or hub id of the model, such as `yuvalkirstain/PickScore_v1`."""
    tokenizer: HomePath | None = None
    """Folder or hub id of the tokenizer, if `path` contains none; unset takes `path`."""
    logit_scale: bool = False
    """Multiply the cosine by the model's exp(logit_scale), as in PickScore's published scores."""
    scale: float = Field(default=1.0, gt=0)
    """Further factor of the score: 0.05 for the PickScore that SRPO was trained with, published / 20."""


class AestheticRewardConfig(BuiltInRewardSection):
    """Aesthetic quality of an image, independent of the prompt: LAION's v2 and Aesthetic Predictor v2.5."""

    reads_text: ClassVar[bool] = False
    type: Literal["aesthetic"] = "aesthetic"
    path: HomePath = Field(min_length=1)
    """File of the head's weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Required SHA-256 of the head's file."""
    backbone: HomePath = Field(min_length=1)
    """Folder or hub id of the model that computes the head's image features: `openai/clip-vit-large-patch14` for
    LAION's head, `google/siglip-so400m-patch14-384` for v2.5."""


class ImageRewardConfig(BuiltInRewardSection):
    """ImageReward v1, a BLIP model trained on human rankings; texts are truncated to 35 tokens."""

    type: Literal["image_reward"] = "image_reward"
    path: HomePath = Field(default="hf-hub:THUDM/ImageReward/ImageReward.pt", min_length=1)
    """File of the weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Required SHA-256 of the file."""
    tokenizer: HomePath = Field(default="google-bert/bert-base-uncased", min_length=1)
    """Folder or hub id of BERT's lower-case English tokenizer."""


class HPSv3RewardConfig(BuiltInRewardSection):
    """HPSv3: Qwen2-VL-7B with a head for the mean and the deviation of a score; the mean is the reward."""

    type: Literal["hpsv3"] = "hpsv3"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Data type of all parts but the head, which computes in float32; the release uses bfloat16."""
    path: HomePath = Field(default="hf-hub:MizzenAI/HPSv3/HPSv3.safetensors", min_length=1)
    """File of all weights, or `hf-hub:ORG/NAME/FILE`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Required SHA-256 of the file."""
    backbone: HomePath = Field(default="Qwen/Qwen2-VL-7B-Instruct", min_length=1)
    """Folder or hub id of the model whose config and tokenizer are read; its weights are not."""


class PythonRewardConfig(RewardModelSection):
    """Custom reward: a class with the `Reward` interface, named by its import path."""

    repeatable: ClassVar[bool] = False
    type: Literal["python"] = "python"
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Import path `package.module:Class`; the class is called with `arguments` as keywords."""
    arguments: dict[str, str | int | float | bool] = {}
    """Keyword arguments of the class; `${NAME}` in a text is replaced by that environment variable."""
    environment: EnvironmentSection | None = None
    """Python environment in which the class runs, in a process of its own beside each replica; unset runs it in the
    replica."""


RewardModelConfig = Annotated[
    OpenClipRewardConfig
    | TransformersClipRewardConfig
    | ImageRewardConfig
    | AestheticRewardConfig
    | HPSv3RewardConfig
    | JudgeRewardConfig
    | OcrRewardConfig
    | QuestionsRewardConfig
    | HttpRewardConfig
    | PythonRewardConfig,
    Field(discriminator="type"),
]


class PoolConfig(Section):
    """Ray actors that run the reward models outside the trainer processes."""

    num_replicas: Count = 1
    """Number of replicas of the reward models, one process each: a number, or `{min: 1, max: 8}` to autoscale with the
    queue."""
    one_model_each: bool = False
    """Load one model per replica instead of all of them; there are then `num_replicas` of every model."""
    max_ongoing_requests: int = Field(default=8, ge=1)
    """Maximum number of unanswered calls per replica; beyond it, trainers wait before they send pixels
    (back-pressure)."""
    upscale_queue_length: float = Field(default=2.0, ge=0)
    """Number of waiting calls per replica above which an autoscaled pool grows."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """Seconds for which the queue must exceed that length without a break before one replica is added, so that short
    bursts add none."""
    downscale_delay_s: float = Field(default=300.0, ge=0)
    """Seconds without a call, and with an empty queue, after which an autoscaled pool removes one replica."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs that one replica reserves."""
    num_gpus: NumGpus = 0.0
    """Ray GPUs that one replica reserves: a whole number, or a fraction of one."""
    resources: Resources = {}
    """Custom Ray resources that one replica reserves, for example `{reward_slot: 1}`."""
    labels: dict[str, LabelValue] = {}
    """Labels of Ray nodes that replicas may run on, for example `{role: reward}`; empty takes any node."""
    num_threads: int = Field(default=1, ge=1)
    """Torch threads of one replica, for models on the CPU."""
    micro_batch_size: int = Field(default=16, ge=1)
    """Maximum number of images in one forward pass of a replica, and in one call to it."""
    max_attempts: int = Field(default=3, ge=1)
    """Maximum number of attempts of one call; a call that is lost with its replica is replayed, and after the last
    attempt the run stops."""
    timeout_s: float = Field(default=300.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds that one call may take before its replica counts as hung and is restarted."""
    wire_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of pixels and gradients between trainer and replica. `bfloat16` halves the bytes and rounds to 8
    significant bits: pixels, and with them scores, by at most half a step of 1/255, and gradients by at most 0.4 %.
    Official evaluations use float32 for pixels."""

    @property
    def replica_resources(self) -> dict[str, float]:
        """Resources that one replica reserves, by Ray's names, without zeros."""
        resources = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: amount for name, amount in resources.items() if amount > 0}

    def least_replicas(self, num_models: int) -> int:
        """Minimum number of replicas of a pool with this number of models."""
        return smallest(self.num_replicas) * (num_models if self.one_model_each else 1)

    def most_replicas(self, num_models: int) -> int:
        """Maximum number of replicas of a pool with this number of models."""
        return largest(self.num_replicas) * (num_models if self.one_model_each else 1)


class RewardsConfig(Section):
    """Section `rewards`: the training reward, and the processes that compute it."""

    models: tuple[RewardModelConfig, ...]
    """Models whose weighted sum is the training reward; at least one, unless updates ask no reward."""
    normalize: bool = False
    """Divide every score in the sum by its model's `spread`, so that equal weights have equal influence."""
    in_process: bool = False
    """Score inside the trainer process, on its device and with the batch size of the pool, instead of in the pool."""
    pool: PoolConfig = PoolConfig()

    @property
    def factors(self) -> dict[str, float]:
        """Factor of each model's score in the training reward: its weight, divided by its spread if normalised."""
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
