"""Published constants of all files for learning from preferences: their values, and where the header states them."""

from typing import Any

import pytest
import yaml

from srpo_ray.config import load_run
from tests.conftest import ROOT, SMALL_WORLD

FOLDER = ROOT / "configs" / "algorithms"
PUBLISHED: dict[str, dict[str, tuple[Any, str | None]]] = {
    "adaptive_dpo": {"algorithm.doubt.temperature": (10, "temperature 10"), "algorithm.loss": ("dpo", None)},
    "balanced_dpo": {"algorithm.select": ("vote", "Each reward votes"), "algorithm.source": ("online", None)},
    "chats_loser": {"algorithm.loser_weight": (0, None), "algorithm.orientation": ("reversed", None)},
    "chats_winner": {"algorithm.loser_weight": (0, None), "algorithm.orientation": ("preferred", None)},
    "dcpo": {"algorithm.captions": ("own", "a caption of its own"), "algorithm.loss": ("dpo", None)},
    "diffusion_dpo": {
        "algorithm.beta": (100, "beta 100 on errors of the velocity"),
        "algorithm.error_space": ("velocity", None),
        "algorithm.reference_role": ("reference", None),
    },
    "diffusion_kto": {"algorithm.loss": ("kto", None), "algorithm.source": ("labels", "without pairs")},
    "dro": {
        "algorithm.margin": (0.001, "margin 0.001"),
        "algorithm.loss": ("hinge", None),
        "algorithm.reference.refresh": (1, "refreshed with every update"),
        "algorithm.coupling": ("states", "states of the policy's rollouts"),
        "algorithm.guidance_scale": (1, "without guidance"),
    },
    "inpo": {
        "algorithm.inversion.steps": (10, "10 steps"),
        "algorithm.inversion.noise": (0.1, "eta 0.1"),
        "algorithm.inversion.by": ("policy", "the policy's own trajectory"),
        "algorithm.inversion.averaged": (False, None),
    },
    "mapo": {
        "algorithm.beta": (1000, "slope 1000"),
        "algorithm.curvature": (0.5, "constant 0.5"),
        # The error has the weight 1 beside a preference with 0.1, which is 10 beside 1.
        "algorithm.sft": (1 / 0.1, "sft 10"),
        "training.optimizer.lr": (1e-5, "learning rate of 1e-5"),
        "training.batch_size": (16, "16 pairs"),
    },
    "npo": {"algorithm.orientation": ("reversed", None), "algorithm.loss": ("dpo", None)},
    "online_dpo": {"algorithm.beta": (100, "beta 100"), "algorithm.select": ("best_worst", "best and the worst")},
    "pso": {
        "algorithm.loser_weight": (0.1, "factor 0.1"),
        "algorithm.beta": (200, "beta 200"),
        "algorithm.sigma.type": ("grid", "the sigmas of the sampler"),
    },
    "rethinking_dpo": {"algorithm.reference_role": ("old", None), "algorithm.loss": ("dpo", None)},
    "sdpo": {"algorithm.safeguard": (0.9, "mu 0.9"), "algorithm.loss": ("dpo", None)},
    "smpo": {
        "algorithm.confidence_slope": (10, "factor 10"),
        "algorithm.inversion.steps": (5, "10 or 5 averaged steps"),
        "algorithm.inversion.averaged": (True, "averaged steps"),
        "algorithm.inversion.noise": (0, None),
    },
    "soft_repa": {
        "algorithm.contrastive.temperature": (0.07, "temperature 0.07"),
        "algorithm.contrastive.scale": (4, "scale 4"),
        "training.micro_batch_size": (4, "4 images"),
    },
    "spin": {
        "algorithm.source": ("self_play", "Real images are preferred"),
        "algorithm.sampler": ("reference", "samples of the last iterate"),
        "algorithm.reference_role": ("old", None),
    },
    "tpo": {"algorithm.source": ("captions", "a right and a wrong caption"), "algorithm.loss": ("dpo", None)},
    "video_dpo": {
        "algorithm.sampler": ("reference", "the base model's own samples"),
        "algorithm.select": ("best_worst", "best and worst"),
        "algorithm.reference_role": ("reference", None),
    },
}
"""File -> key -> published value, and the words of the header that state it; None where it has none."""


def header(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def value_at(config: object, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_every_file_of_preferences_has_an_entry() -> None:
    types = {path.stem: yaml.safe_load(path.read_text())["algorithm"]["type"] for path in FOLDER.glob("*.yaml")}
    assert {name for name, kind in types.items() if kind == "preference"} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_file_has_the_published_constants_that_its_header_states(name: str) -> None:
    config, text = load_run([SMALL_WORLD, FOLDER / f"{name}.yaml"]), header(name)
    for key, (value, words) in PUBLISHED[name].items():
        assert value_at(config, key) == value, key
        assert words is None or words in text, key
