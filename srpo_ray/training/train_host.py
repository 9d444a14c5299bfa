"""Worker process of Ray Train, as the training loop sees it."""

from typing import Any

import ray.train
import ray.util


class TrainWorkerHost:
    """Worker process of Ray Train."""

    def report(self, row: dict[str, Any]) -> None:
        """Report to Ray Train, with the placement group of the workers for the process that removes it."""
        group = ray.util.get_current_placement_group()
        ray.train.report({"placement_group": group.id.hex() if group else "", **row})

    def leaving_nodes(self) -> frozenset[str]:
        """See `Host.leaving_nodes`."""
        notice = ray.train.get_preemption_info()
        return frozenset(notice.preempted_node_to_ranks) if notice else frozenset[str]()
