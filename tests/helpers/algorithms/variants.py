"""Settings under which algorithms call the model differently; the test of all algorithms runs each of them."""

from srpo_ray.config.algorithms.registry import TYPES

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
    "dance_grpo, divided groups": {"algorithm.group_size": 6, "algorithm.images_per_pass": 2},
}
CASES: dict[str, dict[str, object]] = {**{kind: {} for kind in TYPES}, **VARIANTS}
"""Type of the algorithm, with a description where there are overrides -> overrides."""


def type_of(case: str) -> str:
    """Type of a case's algorithm."""
    return case.partition(",")[0]
