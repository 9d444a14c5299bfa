"""A study of methods: each tuned on its own, trained with several seeds, and one of them taken apart."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from srpo_ray.config.base import Name, Section, check_names
from srpo_ray.config.sweep import Comparison, Objective


class Method(Section):
    """One method of the study: its changes to the base config, and what is tuned for it."""

    name: str = Field(min_length=1)
    """What it is called in tables and figures."""
    like: str | None = None
    """An earlier method whose changes and tuned values this one starts from."""
    set: dict[str, Any] = {}
    """Dotted config paths and their values."""
    tune: dict[str, tuple[Any, ...]] = {}
    """Dotted config path -> values to try; the combination with the best objective is kept."""
    seeds: tuple[int, ...] | None = None
    """Seeds of this method alone; unset takes the study's."""

    @model_validator(mode="after")
    def _check_tuned(self) -> Self:
        empty = [path for path, values in self.tune.items() if not values]
        if empty:
            raise ValueError(f"expected values to try for {', '.join(empty)}, got none; give a list or leave it out")
        if self.like is not None and self.tune:
            raise ValueError(
                f"expected no tune in {self.name!r}, which takes its tuned values from {self.like!r}, got"
                f" {', '.join(self.tune)}; tune that one, or leave out `like`"
            )
        return self


class StudyConfig(Section):
    """A study file: a base config, the methods that are compared, and the ablations of one of them."""

    name: Name = "study"
    """Name of the study and of its folder under the base config's `run_root`."""
    base: str | tuple[str, ...]
    """Run config file or files that every method starts from, relative to the study file."""
    methods: tuple[Method, ...] = Field(min_length=1)
    """What is compared; equal compute is theirs to see to, with `training.num_updates`."""
    ablated: str
    """The method that ablations are made of, and whose compute the others are held against."""
    ablations: tuple[Comparison, ...] = ()
    """That method, as tuned, with a few values changed."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=2)
    """Every method and ablation is trained once with each."""
    tuning_seed: int = 0
    """Seed of the runs that values are chosen by; none of `seeds`, as its winner was lucky."""
    objective: Objective = "evaluator/held_out"
    """Metric that values are tuned by and costs are counted to: a held-out score, never the training reward."""
    mode: Literal["max", "min"] = "max"
    """Whether a larger or a smaller objective is better."""
    max_fall: dict[str, float] = {}
    """Metric -> most that it may fall below the base model with the values that are chosen."""
    target_share: float = Field(default=0.5, gt=0, le=1)
    """The score whose cost is compared lies this share of the way from the base model to `ablated`."""
    max_concurrent_trials: int = Field(default=2, ge=1)
    """Runs at the same time."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        check_names([method.name for method in self.methods] + [ablation.name for ablation in self.ablations])
        known: list[str] = []
        for method in self.methods:
            if method.like is not None and method.like not in known:
                raise ValueError(
                    f"expected `like` of {method.name!r} to name a method before it ({', '.join(known) or 'none'}),"
                    f" got {method.like!r}; move that one up or correct the name"
                )
            known.append(method.name)
        if self.ablated not in known:
            raise ValueError(
                f"expected ablated to name a method ({', '.join(known)}), got {self.ablated!r}; choose one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        for seeds in (self.seeds, *(method.seeds for method in self.methods if method.seeds is not None)):
            if not seeds or len(set(seeds)) != len(seeds):
                raise ValueError(f"expected seeds that differ, at least one, got {list(seeds)}; give each once")
            if self.tuning_seed in seeds:
                raise ValueError(
                    f"expected seeds without the tuning_seed {self.tuning_seed}, got {list(seeds)}; the values are"
                    " chosen by its score, so it would flatter them: take another"
                )
        return self

    def method(self, name: str) -> Method:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)

    def changes(self, method: Method) -> dict[str, Any]:
        """What the method changes in the base config, before tuning."""
        inherited = self.changes(self.method(method.like)) if method.like else {}
        return {**inherited, **method.set}
