"""Methods of the gradient-quality study: preset files of `configs/algorithms`, with one sampler for all.

The presets differ in the number of sampler steps. Here all have those of the objective, so that methods differ in their
estimators only. Plans that name steps beyond the sampler's are adapted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srpo_ray.config import RunConfig, load_run

CONFIGS = Path(__file__).parents[1] / "configs"
STEPS, GUIDANCE = 12, 3.5
"""Sampler steps and guidance of the objective and of all methods."""
SAMPLER = (f"rollout.num_steps={STEPS}", f"rollout.guidance_scale={GUIDANCE}", "training.num_threads=1")
PROMPTS = "training.batch_size=4"
"""Prompts of an update with groups of images; an update of the other methods has 8 images of 8 prompts."""
ONE_STEP = "algorithm.optimizer_steps=1"
"""One optimizer step of all trained steps: at the base weights, their sum is the direction of the update."""
SWEEPING = "algorithm.plan.every=1"
"""A window that moves with each update, so that a few updates have all of its positions."""

WORDS = ("algorithm.query=relative", "algorithm.control_words=detailed")
"""Relative query of a method with control words, whose reference is the gradient of the relative reward."""

TASTE = (
    'rewards.models=[{name: held_out, type: open_clip, path: "small_world:held_out"}]',
    "evaluation.held_out=[]",
)
"""Reward that learned from the annotator `held_out`: the objective of methods that learn from its pairs."""
PAIRS = ("data.pairs=small_world:pairs?taste=held_out", *TASTE)

Family = Literal["reward gradient", "policy gradient", "forward process", "preference"]
Objective = Literal["plain", "words", "taste"]


@dataclass(frozen=True)
class Method:
    """One method."""

    family: Family
    preset: str | None
    """File of `configs/algorithms`, without `.yaml`; None is the base config, which trains SRPO."""
    settings: tuple[str, ...] = ()
    """Changes to the preset."""

    @property
    def objective(self) -> Objective:
        """Reward whose expectation the method raises: both trained ones, these with control words, or a taste."""
        if set(TASTE) <= {*self.settings}:
            return "taste"
        return "words" if set(WORDS) <= {*self.settings} else "plain"

    def config(self, run_root: Path) -> RunConfig:
        """Load the config of the small world with the method.

        Args:
            run_root: Folder of caches.
        """
        files = [CONFIGS / "small_world.yaml"]
        if self.preset:
            files.append(CONFIGS / "algorithms" / f"{self.preset}.yaml")
        group = (PROMPTS,) if self.family in ("policy gradient", "forward process") else ()
        return load_run(files, [*SAMPLER, *group, *self.settings, f"run_root={run_root}"])


def _gradient(preset: str | None, *settings: str) -> Method:
    return Method("reward gradient", preset, settings)


def _policy(preset: str, *settings: str) -> Method:
    return Method("policy gradient", preset, settings)


def _forward(preset: str, *settings: str) -> Method:
    return Method("forward process", preset, settings)


def _pairs(preset: str, *settings: str) -> Method:
    return Method("preference", preset, (*settings, *PAIRS))


OWN_NOISE = "algorithm.noise=per_sample"
METHODS: Mapping[str, Method] = {
    "whole trajectory": _gradient("draft", f"algorithm.num_steps={STEPS}", "algorithm.renoisings=0"),
    "DRaFT-1": _gradient("draft", "algorithm.renoisings=0"),
    "DRaFT-3": _gradient("draft", "algorithm.num_steps=3", "algorithm.renoisings=0"),
    "DRaFT-LV": _gradient("draft"),
    "DRaFT, 3 spread steps": _gradient(
        "draft", "algorithm.num_steps=3", "algorithm.renoisings=0", "algorithm.gradient_steps=spread"
    ),
    "AlignProp": _gradient("align_prop"),
    "DRTune": _gradient("drtune"),
    "ReFL": _gradient("refl"),
    "ReFL, any step": _gradient("refl", "algorithm.late_share=1.0"),
    "ImageReFL": _gradient("image_refl", "algorithm.anchor.data=0"),
    "LeapAlign": _gradient("leap_align"),
    "FlowBP-Bridge": _gradient("flow_bp"),
    "FlowBP-Sparse": _gradient("flow_bp", "algorithm.variant=sparse"),
    "Direct-Align": _gradient("direct_align", OWN_NOISE),
    "Direct-Align, one noise": _gradient("direct_align"),
    "Direct-Align, rollouts unguided": _gradient("direct_align", OWN_NOISE, "rollout.guidance_scale=1"),
    "DDPO": _policy("ddpo", ONE_STEP),
    "DanceGRPO": _policy("dance_grpo", "algorithm.group_size=8"),
    "large-scale RL": _policy("large_scale_rl"),
    "Flow-GRPO": _policy("flow_grpo", ONE_STEP),
    "Flow-GRPO-Fast": _policy("flow_grpo_fast"),
    "GRPO-Guard": _policy("grpo_guard", ONE_STEP),
    "Flow-DPPO": _policy("flow_dppo", ONE_STEP),
    "HRF": _policy("hrf", SWEEPING),
    "MixGRPO": _policy("mix_grpo", SWEEPING),
    "MixGRPO-Flash": _policy("mix_grpo_flash", SWEEPING),
    "TempFlow-GRPO": _policy("temp_flow_grpo"),
    "G2RPO": _policy("g2rpo", ONE_STEP),
    "BranchGRPO": _policy("branch_grpo"),
    "Pref-GRPO": _policy("pref_grpo"),
    "dense reward": _policy("dense_reward", "training.batch_size=16"),
    "SPO": _policy("spo", "algorithm.plan.at=[2, 4, 6, 8, 10]"),
    "TailorPO": _policy("tailor_po", "algorithm.plan.at=[0, 2, 4, 6, 8, 10]"),
    "AWM": _forward("awm", "algorithm.group_size=8"),
    "AWM, plain weighting": _forward("elbo", "algorithm.group_size=8"),
    "DiffusionNFT": _forward("diffusion_nft", "algorithm.group_size=8"),
    "CRD": _forward("crd", "algorithm.group_size=8"),
    "RAFT": _forward("raft", "algorithm.group_size=8"),
    "RWR": _forward("rwr", "algorithm.group_size=8"),
    "whole trajectory, words": _gradient("draft", f"algorithm.num_steps={STEPS}", "algorithm.renoisings=0", *WORDS),
    "ReFL, words": _gradient("refl", *WORDS),
    "DRaFT-LV, words": _gradient("draft", *WORDS),
    "Direct-Align, words": _gradient("direct_align", OWN_NOISE, *WORDS),
    "SRPO": _gradient(None, OWN_NOISE, *WORDS),
    "SRPO, denoise branch": _gradient(None, OWN_NOISE, "algorithm.branches=[denoise]", *WORDS),
    "whole trajectory, taste": _gradient("draft", f"algorithm.num_steps={STEPS}", "algorithm.renoisings=0", *TASTE),
    "ReFL, taste": _gradient("refl", *TASTE),
    "Diffusion-DPO": _pairs("diffusion_dpo"),
    "Diffusion-DPO, a noise for each image": _pairs("diffusion_dpo", "algorithm.coupling=independent"),
    "Diffusion-DPO, inverted points": _pairs("inpo"),
    # `beta` has no effect on a direction at the base weights, where all margins are 0.
    "Diffusion-DPO, errors of the image": _pairs("diffusion_dpo", "algorithm.error_space=image"),
    "Diffusion-DPO, errors of the noise": _pairs("diffusion_dpo", "algorithm.error_space=noise"),
    "Diffusion-DPO, sigma below one third": _pairs("diffusion_dpo", "algorithm.sigma.window=[0.0, 0.333]"),
    "Diffusion-DPO, sigma in the middle third": _pairs("diffusion_dpo", "algorithm.sigma.window=[0.333, 0.667]"),
    "Diffusion-DPO, sigma above two thirds": _pairs("diffusion_dpo", "algorithm.sigma.window=[0.667, 1.0]"),
    "MaPO": _pairs("mapo"),
    "preferred images alone": _pairs("diffusion_dpo", "algorithm.loss=sft"),
    "online DPO": Method("preference", "online_dpo", ("training.batch_size=4", *TASTE)),
    "online DPO, noise of the rollout": Method(
        "preference", "online_dpo", ("training.batch_size=4", "algorithm.coupling=rollout", *TASTE)
    ),
}
"""Name -> method."""
REFERENCES: Mapping[Objective, str] = {
    "plain": "whole trajectory",
    "words": "whole trajectory, words",
    "taste": "whole trajectory, taste",
}
"""Objective -> method that estimates the reference at the size of an update."""
QUICK = ("whole trajectory", "DRaFT-LV", "ReFL", "Direct-Align", "Flow-GRPO-Fast", "AWM")
"""Methods of a quick run."""
