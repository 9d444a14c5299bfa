"""Options of policy gradients. Section `rollout` determines the number, shift and guidance of the sampler steps."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from srpo_ray.config.algorithms.advantage import AdvantageSection
from srpo_ray.config.algorithms.base import Calls, Needs, Role
from srpo_ray.config.algorithms.branch_plans import Branch, Tree
from srpo_ray.config.algorithms.group import GroupSection
from srpo_ray.config.algorithms.plan import PlanSection
from srpo_ray.config.algorithms.step_plans import AllSteps, Window
from srpo_ray.config.algorithms.surrogate import SurrogateSection
from srpo_ray.config.algorithms.transition import TransitionSection

Plan = Annotated[AllSteps | Window | Branch | Tree, Field(discriminator="type")]
"""Section `algorithm.plan`, with the class that `type` selects."""


class Parts(NamedTuple):
    """Parts of a policy gradient."""

    plan: PlanSection
    """Random, trained and shared steps."""
    transition: TransitionSection
    """Stochastic step."""
    advantage: AdvantageSection
    """Advantages of the images."""
    surrogate: SurrogateSection
    """Loss of a trained step."""
    optimizer_steps: int = 1
    """Optimizer steps per rollout."""
    noise: Literal["per_sample", "per_image"] = "per_sample"
    """Images with the same initial noise."""


class PolicyGradientSection(GroupSection):
    """Base of the config classes of policy gradients, whose `parts` the algorithm reads."""

    code: ClassVar[str] = "srpo_ray.algorithms.policy_gradient:PolicyGradient"
    needs: ClassVar[Needs] = Needs(reward="score")

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """Parts of the method."""

    @property
    def images(self) -> int:
        """Number of images of a prompt in one forward pass."""
        return self.group_size // self.passes_per_prompt

    @property
    def roles(self) -> frozenset[Role]:
        """Roles besides the policy: the initial model, if the loss compares with it."""
        compared: frozenset[Role] = frozenset({"reference"} if self.parts.surrogate.needs_reference else ())
        return super().roles | compared

    @property
    def compares_images(self) -> bool:
        """True with win rates."""
        return self.parts.advantage.rank == "win_rate"

    def calls(self, num_steps: int) -> Calls:
        """Count the rollout of a group, the calls of the initial model, and a loss per trained step."""
        parts = self.parts
        size = {"group_size": self.group_size, "shared": parts.noise == "per_sample", "images": self.images}
        sizes = parts.plan.gradient(num_steps, **size)
        largest, reference, rollout = max(sizes), parts.surrogate.needs_reference, parts.plan.forward(num_steps, **size)
        kept = parts.plan.kept(num_steps, **size, means=parts.surrogate.needs_old_mean)
        calls, work = rollout
        if reference:
            calls, work = calls + len(sizes), work + sum(sizes)
        return Calls(
            calls,
            losses=len(sizes) // parts.optimizer_steps,
            forward_size=work / calls,
            gradient_size=sum(sizes) / len(sizes) / largest,
            images_per_prompt=self.group_size,
            passes_per_prompt=self.passes_per_prompt,
            rows_with_gradient=round(largest * self.images),
            scores_per_image=parts.plan.scored,
            pairs=self.group_size * (self.group_size - 1) // 2 * parts.plan.scored if self.compares_images else 0,
            phases=2 if reference else 1,
            optimizer_steps=parts.optimizer_steps,
            decodes=False,
            kept=kept + (sum(sizes) if reference else 0.0),
        )

    def check_comparisons(self, names: Sequence[str], count: int) -> None:
        """Check that pairs of images can be compared: whole groups, one text, and no sum of rewards.

        Args:
            names: Trained rewards that compare pairs, at least one.
            count: Number of trained rewards.

        Raises:
            ValueError: If they cannot be compared.
        """
        if not self.compares_images:
            return
        asked = f"with algorithm.advantage.rank=win_rate and the comparisons of {', '.join(names)}"
        if self.passes_per_prompt > 1:
            raise ValueError(
                f"expected no algorithm.images_per_pass {asked}, got {self.images_per_pass}; all pairs of a group are"
                " compared in one forward pass, so remove it, or remove `comparison` from the reward"
            )
        if self.query != "plain":
            raise ValueError(
                f"expected algorithm.query=plain {asked}, got {self.query}; a difference of texts has no better image,"
                " so set it to plain, or remove `comparison` from the reward"
            )
        if count > 1 and self.parts.advantage.rewards != "each":
            raise ValueError(
                f"expected algorithm.advantage.rewards=each {asked}, got {self.parts.advantage.rewards} with {count}"
                " rewards; comparisons of a weighted sum do not exist, so set it to each, or train on one reward"
            )

    def check_rollout(self, num_steps: int) -> None:
        """Check that the sampler has the steps of the plan, and the plan those of the optimizer."""
        if num_steps < 2:
            raise ValueError(
                f"expected rollout.num_steps of at least 2 with a policy gradient, got {num_steps}; the last step is"
                " deterministic, so raise it to have a stochastic step to train"
            )
        parts = self.parts
        parts.plan.check(num_steps, self.group_size, self.images, parts.noise == "per_sample")
        trained = parts.plan.trained(num_steps)
        if trained % parts.optimizer_steps:
            raise ValueError(
                f"expected algorithm.optimizer_steps to divide the {trained} trained steps of an image, got"
                f" {parts.optimizer_steps}; optimizer steps share them equally, so choose a divisor of {trained} or"
                " another algorithm.plan"
            )
        if parts.surrogate.ratio == "exact" and parts.optimizer_steps > 1:
            raise ValueError(
                "expected algorithm.optimizer_steps=1 with algorithm.surrogate.ratio=exact, got"
                f" {parts.optimizer_steps}; after the first step the policy has moved, so set ratio to recorded or"
                " optimizer_steps to 1"
            )
        if parts.advantage.history and not isinstance(parts.plan, AllSteps | Window):
            raise ValueError(
                "expected algorithm.plan.type=all or window with algorithm.advantage.history, got"
                f" {parts.plan.model_dump()['type']}; the rewards of a branch belong to its state, so remove history"
            )
        if parts.surrogate.type == "pair":
            self._check_pairs()
        if parts.surrogate.type == "ranking":
            self._check_trajectories()

    def _check_trajectories(self) -> None:
        plan, steps = self.parts.plan, self.parts.optimizer_steps
        if not isinstance(plan, AllSteps | Window) or steps > 1:
            raise ValueError(
                "expected algorithm.plan.type=all or window and algorithm.optimizer_steps=1 with"
                f" algorithm.surrogate.type=ranking, got plan.type={plan.model_dump()['type']} and optimizer_steps="
                f"{steps}; the loss ranks whole trajectories by their probability under the policy that sampled them,"
                " so choose another plan and remove optimizer_steps"
            )

    def _check_pairs(self) -> None:
        plan, passes = self.parts.plan, self.passes_per_prompt
        if isinstance(plan, Tree):
            raise ValueError(
                "expected algorithm.plan.type=branch, all or window with algorithm.surrogate.type=pair, got tree; an"
                " inner state of a tree has no image of its own to compare, so choose another plan"
            )
        if passes > 1:
            raise ValueError(
                f"expected no algorithm.images_per_pass with algorithm.surrogate.type=pair, got {self.images_per_pass}"
                f" of {self.group_size} images; the loss compares images of a group in one forward pass, so remove it"
                " or lower group_size"
            )


class PolicyGradientConfig(PolicyGradientSection):
    """Policy gradient with any plan, transition, advantage and surrogate; the defaults are DanceGRPO's.

    The files in `configs/algorithms/` have the parts of the published methods.
    """

    type: Literal["policy_gradient"] = "policy_gradient"
    noise: Literal["per_sample", "per_image"] = "per_sample"
    """Images with the same initial noise: those of one prompt (`per_sample`), or none (`per_image`)."""
    plan: Plan = AllSteps()
    """Random and trained steps of the sampler; `type` selects the plan."""
    transition: TransitionSection = TransitionSection()
    advantage: AdvantageSection = AdvantageSection()
    surrogate: SurrogateSection = SurrogateSection()
    optimizer_steps: int = Field(default=1, ge=1)
    """Optimizer steps per rollout, which share the trained steps equally; a divisor of their number."""

    @property
    def parts(self) -> Parts:
        """The sections of the config."""
        return Parts(self.plan, self.transition, self.advantage, self.surrogate, self.optimizer_steps, self.noise)
