"""Config sections of the rewards that a server computes: VLM judges over an OpenAI-compatible API, and HTTP scorers."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import LONGEST_WAIT_S
from srpo_ray.config.home import HomePath
from srpo_ray.config.reward_section import Fit, RewardModelSection

PROMPT_FIELD = "{prompt}"
"""Place of the prompt in a rubric."""


class ServedRewardSection(RewardModelSection):
    """Fields of the rewards that a server computes. They have no gradient in the image."""

    image_gradient: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False
    url: str = Field(pattern=r"^(https?://|\$\{)\S+$")
    """Address of the server; `${NAME}` is replaced by that environment variable."""
    api_key: str = ""
    """Key that is sent as `Authorization: Bearer KEY`: `${NAME}`, the name of an environment variable; empty sends
    none."""
    image_size: int = Field(default=512, ge=16, le=4096)
    """Side in pixels of the square image that the server receives."""
    fit: Fit = "pad"
    """Resize to that square; `pad` keeps the whole image and its proportions."""
    concurrency: int = Field(default=32, ge=1, le=1024)
    """Maximum number of requests in flight per replica of the reward pool."""
    timeout_s: float = Field(default=60.0, gt=0, le=LONGEST_WAIT_S)
    """Seconds that one request may take."""
    max_attempts: int = Field(default=4, ge=1, le=20)
    """Maximum number of attempts of one request. Lost connections, late answers and HTTP 408, 429 and 5xx are repeated
    after 0.5, 1, 2, ... seconds, or after the server's Retry-After; after the last attempt the run stops."""


class JudgeServerSection(ServedRewardSection):
    """Fields of the rewards that ask a vision-language model behind an OpenAI-compatible server."""

    model: str = Field(min_length=1)
    """Name of the model at the server."""
    top_logprobs: int = Field(default=20, ge=1, le=100)
    """Number of token probabilities that are requested per position; OpenAI and vLLM allow 20 by default."""
    min_probability: float = Field(default=0.5, ge=0, le=1)
    """Minimum total probability of the expected answers; below it, the judge did not understand the question, and the
    run stops."""


class JudgeRewardConfig(JudgeServerSection):
    """Rating of an image by a vision-language model, computed from its token probabilities."""

    type: Literal["judge"] = "judge"
    template: Literal["vqascore", "unified_reward", "rubric"] = "vqascore"
    """Question: `vqascore` asks if the image shows the prompt, and the score is p(yes) in [0, 1]; `unified_reward` is
    the prompt of UnifiedReward 2.0, and the score the mean of alignment, coherence and style, 1 to 5; `rubric` is your
    own text."""
    rubric: str | None = None
    """Question of `template: rubric`, with `{prompt}` at the place of the prompt; it must ask for one of the words of
    `ratings` and nothing else."""
    ratings: dict[str, float] = Field(default={"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0, "5": 5.0}, min_length=2)
    """Answers to the rubric and their values; the score is the mean value under the judge's probabilities. An answer
    is one token of the judge, and its case is ignored."""
    comparison: Literal["choice", "unified_reward_think"] | None = None
    """Question about two images of a prompt, which the judge gets in both orders, for `algorithm.advantage.rank:
    win_rate` and for the win rates of `srpo-ray evaluate`: `choice` asks for the better one in one token;
    `unified_reward_think` is the prompt of UnifiedReward-Think, which reasons before it answers. Unset compares the
    scores."""
    comparison_question: str | None = None
    """Your own question of `comparison: choice`, with `{prompt}` at the place of the prompt; it must ask for `1` (the
    first image is better), `2` (the second one), or `0` (a tie), and nothing else."""

    @property
    def compares_pairs(self) -> bool:
        """True if the judge compares two images at once."""
        return self.comparison is not None

    @model_validator(mode="after")
    def _check_rubric(self) -> Self:
        if (self.template == "rubric") != (self.rubric is not None):
            raise ValueError(
                f"expected rubric with template: rubric and only there, got template: {self.template}"
                f" {'without a' if self.rubric is None else 'with a'} rubric; set both or remove the rubric"
            )
        # A stored config has all fields, so a default is no choice of the user.
        if self.template != "rubric" and self.ratings != type(self).model_fields["ratings"].default:
            raise ValueError(
                f"expected ratings with template: rubric only, got template: {self.template}; remove ratings"
            )
        words = [word.strip().lower() for word in self.ratings]
        if "" in words or len(set(words)) < len(words):
            raise ValueError(
                f"ratings: expected answers that differ in more than case and spaces, got {', '.join(self.ratings)}"
            )
        return self

    @model_validator(mode="after")
    def _check_comparison(self) -> Self:
        if self.comparison_question is not None and self.comparison != "choice":
            raise ValueError(
                "expected comparison_question with comparison: choice only, got comparison:"
                f" {self.comparison or 'null'}; set comparison to choice or remove the question"
            )
        return self


class OcrRewardConfig(JudgeServerSection):
    """Agreement of the text in an image with the quoted text of its prompt; a vision-language model transcribes it."""

    type: Literal["ocr"] = "ocr"
    max_tokens: int = Field(default=256, ge=1, le=8192)
    """Maximum number of tokens of a transcript."""


class QuestionsRewardConfig(JudgeServerSection):
    """Answers of a vision-language model to questions about each prompt."""

    # The file has questions about prompts, not about prompts with control words.
    reads_text: ClassVar[bool] = False
    type: Literal["questions"] = "questions"
    questions: HomePath = Field(min_length=1)
    """File of JSON lines `{"prompt": TEXT, "questions": [{"question": TEXT, "answer": WORD}]}`; a further key `tag`
    names the category of a prompt in the report of `srpo-ray evaluate`."""
    score: Literal["probability", "correct"] = "probability"
    """Score of an image. `probability` is the geometric mean of p(expected answer), in [0, 1]; `correct` is 1 if every
    expected answer is the most probable one, else 0, as GenEval counts images."""


class HttpRewardConfig(ServedRewardSection):
    """Scores of an HTTP server of your own, which gets images and prompts as JSON."""

    type: Literal["http"] = "http"
    batch_size: int = Field(default=16, ge=1, le=1024)
    """Maximum number of images in one request."""
