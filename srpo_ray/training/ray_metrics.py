"""Progress of a run as Ray metrics, which Ray exports for Prometheus beside its own metrics of nodes and GPUs."""

from collections.abc import Mapping

import ray
from ray.util.metrics import Gauge

_SCALARS = {
    "time/update": ("srpo_seconds_per_update", "Seconds of an update"),
    "speed/images_per_second": ("srpo_images_per_second", "Images per second of one worker"),
    "speed/tflops": ("srpo_tflops", "10^12 operations per second of one worker"),
    "speed/reward_wait_share": ("srpo_reward_wait_share", "Share of an update that waits for rewards"),
}
_FAMILIES = {
    "reward/total/": ("srpo_reward_total", "Weighted sum of the rewards, of evaluations or by kind of image"),
    "evaluator/": ("srpo_evaluator", "Score of a held-out evaluator"),
}
_EVALUATION = "reward/total"
_RELATIVE = "/relative"
"""End of the names of differences from the base model, which have another scale."""


class RayMetrics:
    """Gauges of a run; Prometheus sees their names with the prefix `ray_`, and the run as the label `run`.

    Args:
        run: Name of the run.
    """

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._made = 0
        self._update = Gauge("srpo_update", "Updates made", ("run",))
        self._scalars = {key: Gauge(name, text, ("run",)) for key, (name, text) in _SCALARS.items()}
        self._families = {key: Gauge(name, text, ("run", "name")) for key, (name, text) in _FAMILIES.items()}

    @classmethod
    def of(cls, run: str) -> "RayMetrics | None":
        """Create the gauges; None in a process without Ray."""
        return cls(run) if ray.is_initialized() else None

    def set(self, update: int, metrics: Mapping[str, float]) -> None:
        """Export the number of updates made, and those of the metrics that have a gauge.

        The evaluation of the weights before training comes after the first update, and does not lower the number.
        """
        self._made = max(self._made, update)
        self._update.set(self._made, self._run)
        for name, value in metrics.items():
            if name in self._scalars:
                self._scalars[name].set(value, self._run)
            if name == _EVALUATION:
                self._families["reward/total/"].set(value, {**self._run, "name": "evaluation"})
            for prefix, gauge in self._families.items():
                if name.startswith(prefix) and not name.endswith(_RELATIVE):
                    gauge.set(value, {**self._run, "name": name.removeprefix(prefix)})
