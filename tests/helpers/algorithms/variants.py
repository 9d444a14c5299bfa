"""Settings under which algorithms call the model differently; the test of all algorithms runs each of them."""

import yaml

from srpo_ray.config.algorithms.registry import TYPES
from tests.conftest import ROOT

SCORED = [kind for kind, section in TYPES.items() if section.needs.reward != "none"]
"""Types that sample images and score them."""
GIVEN: dict[str, dict[str, object]] = {
    kind: {"data.pairs": "small_world:pairs"} for kind, section in TYPES.items() if section.needs.images == "pairs"
}
"""Type -> settings without which it has no data."""
LABELS: dict[str, object] = {"algorithm.source": "labels", "data.pairs": "small_world:labels"}
CAPTIONS: dict[str, object] = {"algorithm.source": "captions", "data.pairs": "small_world:captions"}
INVERTED: dict[str, object] = {"algorithm.coupling": "inverted", "algorithm.sigma": {"type": "grid"}}
MIXED: dict[str, object] = {"data.images": "small_world:realistic", "data.image_ratio": 0.5}
VARIANTS: dict[str, dict[str, object]] = {
    "srpo, two renoisings": {"algorithm.renoisings": 2},
    "srpo, one branch": {"algorithm.branches": ["denoise"]},
    "srpo, mixed data": MIXED,
    "srpo, real images": {"data.images": "small_world:realistic"},
    "srpo, reused": {"rollout.reuse": 5},
    "srpo, mixed and reused": MIXED | {"rollout.reuse": 5},
    "srpo, base model": {"rollout.source": "base_model"},
    "srpo, mixed with base model": MIXED | {"rollout.source": "base_model"},
    "direct_align, mixed data": MIXED,
    "direct_align, distribution": {"algorithm.distribution": {"attributes": ["bright", "dark"], "shares": [0.5, 0.5]}},
    "refl, every step": {"algorithm.late_share": 1.0},
    "refl, from images": {"algorithm.start": "image", "data.images": "small_world:realistic"},
    "refl, from images but every fourth": {
        "algorithm.start": "image",
        "algorithm.plain_every": 4,
        "algorithm.late_share": 0.25,
        "data.images": "small_world:realistic",
    },
    "draft, two steps": {"algorithm.num_steps": 2, "algorithm.renoisings": 0},
    "draft, four renoisings": {"algorithm.renoisings": 4},
    "draft, spread steps": {"algorithm.num_steps": 4, "algorithm.renoisings": 0, "algorithm.gradient_steps": "spread"},
    "drtune, four steps": {"algorithm.train_steps": 4, "algorithm.late_share": 0.7},
    "flow_bp, sparse": {"algorithm.variant": "sparse", "algorithm.active_steps": 3},
    "align_prop, normal cut": {"algorithm.cut": "normal"},
    "align_prop, early cut": {"algorithm.cut": "normal", "algorithm.cut_mean": 0.1, "algorithm.cut_std": 0.3},
    "dance_grpo, every step": {"algorithm.step_share": 1.0, "algorithm.group_size": 3},
    "srpo, anchored": {"algorithm.anchor.reference": 0.1},
    "srpo, anchored and reused": {"algorithm.anchor.reference": 0.1, "rollout.reuse": 5},
    "align_prop, anchored to two": {"algorithm.anchor": {"reference": 0.1, "ema": 0.1}, "training.ema": {}},
    "dance_grpo, anchored": {"algorithm.anchor.reference": 0.1, "algorithm.group_size": 3},
    "awm, two steps": {"algorithm.optimizer_steps": 2},
    "awm, no anchor": {"algorithm.anchor.old": 0},
    "diffusion_nft, all points": {"algorithm.points": None, "algorithm.anchor.reference": 0.1},
    "raft, divided groups": {"algorithm.group_size": 6, "algorithm.images_per_pass": 2, "algorithm.points": 1},
    "crd, anchored": {"algorithm.anchor.reference": 0.1},
    "dance_grpo, divided groups": {"algorithm.group_size": 6, "algorithm.images_per_pass": 2},
    "preference, several draws with a moving reference": {
        "data.pairs": "small_world:pairs",
        "algorithm.draws": 4,
        "algorithm.reference": {"ema": 0.9},
    },
    "preference, no reference": {"data.pairs": "small_world:pairs", "algorithm.loss": "mapo"},
    "preference, anchored to two": {
        "data.pairs": "small_world:pairs",
        "algorithm.draws": 2,
        "algorithm.anchor": {"reference": 0.1, "ema": 0.1},
        "training.ema": {},
    },
    "preference, preferred images alone": {"data.pairs": "small_world:pairs", "algorithm.loss": "sft"},
    "preference, captions": {**CAPTIONS, "algorithm.draws": 2},
    "preference, captions against each other": {
        **CAPTIONS,
        "algorithm.loss": "contrastive",
        "algorithm.anchor.reference": 0.1,
        "training.batch_size": 4,
        "training.micro_batch_size": 4,
    },
    "preference, inverted by the policy": {
        "data.pairs": "small_world:pairs",
        **INVERTED,
        "algorithm.inversion": {"steps": 4, "averaged": True},
        "algorithm.draws": 2,
    },
    "preference, inverted by a moving reference": {
        "data.pairs": "small_world:pairs",
        **INVERTED,
        "algorithm.inversion": {"by": "reference", "noise": 0.1},
        "algorithm.reference": {"ema": 0.9},
        "algorithm.anchor.reference": 0.1,
    },
    "preference, labels": {
        **LABELS,
        "algorithm.loss": "kto",
        "training.batch_size": 4,
        "training.micro_batch_size": 4,
    },
    "preference, online": {"algorithm.source": "online", "algorithm.group_size": 3, "algorithm.draws": 2},
    "preference, online, divided groups": {
        "algorithm.source": "online",
        "algorithm.group_size": 6,
        "algorithm.images_per_pass": 2,
        "algorithm.draws": 2,
        "algorithm.anchor.reference": 0.1,
    },
    "preference, online, states of the reference": {
        "algorithm.source": "online",
        "algorithm.sampler": "reference",
        "algorithm.coupling": "states",
        "algorithm.sigma": {"type": "grid"},
        "algorithm.reference": {"refresh": 2},
        "algorithm.anchor.reference": 0.1,
    },
    "preference, online, win rates": {"algorithm.source": "online", "algorithm.rank": "win_rate"},
    "preference, online, best images": {"algorithm.source": "online", "algorithm.loss": "sft"},
    "preference, self-play": {
        "algorithm.source": "self_play",
        "algorithm.coupling": "rollout",
        "data.images": "small_world:realistic",
    },
    "preference, self-play with states": {
        "algorithm.source": "self_play",
        "algorithm.coupling": "states",
        "algorithm.sigma": {"type": "grid"},
        "algorithm.draws": 2,
        "data.images": "small_world:realistic",
    },
    "policy_gradient, divergence from the initial model": {"algorithm.surrogate.kl": 0.1},
    "policy_gradient, one noise and a late window": {
        "algorithm.plan": {"type": "window", "size": 2, "steps": [3, 9]},
        "algorithm.surrogate": {"kl": 0.1},
    },
    "policy_gradient, branches from a child": {
        "algorithm.group_size": 3,
        "algorithm.plan": {"type": "branch", "at": [1, 2, 5], "path": "child"},
    },
    "policy_gradient, pairs of trajectories": {
        "algorithm.group_size": 3,
        "algorithm.plan": {"type": "window", "size": 2, "steps": [1, 6]},
        "algorithm.surrogate": {"type": "pair", "select": "vote", "discount": 0.8},
    },
    "policy_gradient, splits alone": {
        "algorithm.group_size": 8,
        "algorithm.plan": {"type": "tree", "splits": [1, 4, 5], "random_between": False},
    },
}
RICHER: dict[str, dict[str, object]] = {
    "policy_gradient": {
        "algorithm.images_per_pass": 3,
        "algorithm.plan": {
            "type": "window",
            "size": 2,
            "steps": [0, 3],
            "tail": {"share": 0.5, "solver": "dpm_solver"},
        },
        "algorithm.transition": {"step": "frozen", "noise": "flow", "strength": 0.7},
        "algorithm.advantage": {"history": 4},
        "algorithm.surrogate": {"type": "dppo", "kl": 0.1},
        "algorithm.optimizer_steps": 2,
    }
}
"""Type -> settings with which it is trained on several ranks, where its defaults use less of the engine."""
SOURCES: dict[str, dict[str, object]] = {
    "preference, online": {
        "data.pairs": None,
        "algorithm.source": "online",
        "algorithm.group_size": 3,
        "algorithm.draws": 2,
        "algorithm.images_per_pass": 1,
        "algorithm.coupling": "rollout",
        "algorithm.reference": {"ema": 0.5},
    },
    "preference, self-play": {
        "data.pairs": None,
        "data.images": "small_world:realistic",
        "algorithm.source": "self_play",
        "algorithm.sampler": "reference",
    },
    "preference, labels": {
        **LABELS,
        "algorithm.loss": "kto",
        "training.batch_size": 8,
        "training.micro_batch_size": 4,
    },
    "preference, inverted by a refreshed reference": {
        "data.pairs": "small_world:pairs",
        **INVERTED,
        "algorithm.inversion": {"steps": 2, "by": "reference"},
        "algorithm.reference": {"refresh": 1},
    },
}
"""Type with another source or other points of its images -> settings with which it is trained on several ranks too."""
GROUPED = {"flow_grpo_fast", "mix_grpo", "mix_grpo_flash", "g2rpo", "temp_flow_grpo", "branch_grpo"}
"""Files whose groups are divided among passes in a case of their own: the images share states there."""


def _files() -> dict[str, dict[str, object]]:
    """The files of policy gradients: their sections `algorithm`, whole and with divided groups."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted((ROOT / "configs" / "algorithms").glob("*.yaml")):
        section = yaml.safe_load(path.read_text())["algorithm"]
        if section["type"] == "policy_gradient":
            changes: dict[str, object] = {f"algorithm.{name}": value for name, value in section.items()}
            changes["rollout.num_steps"] = 16
            found[f"policy_gradient, {path.stem}"] = changes
            if path.stem in GROUPED:
                found[f"policy_gradient, {path.stem}, divided"] = {**changes, "algorithm.images_per_pass": 2}
    return found


CASES: dict[str, dict[str, object]] = {**{kind: GIVEN.get(kind, {}) for kind in TYPES}, **VARIANTS, **_files()}
"""Type of the algorithm, with a description where there are overrides -> overrides."""


def type_of(case: str) -> str:
    """Type of a case's algorithm."""
    return case.partition(",")[0]
