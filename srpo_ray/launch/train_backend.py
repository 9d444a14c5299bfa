"""Start of the trainer workers before torch connects them: network interface, and a GPU for each."""

from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from srpo_ray.launch.network import choose_interface
from srpo_ray.training.gpus import GpusOfWorker, note_shared_gpu, shared_gpu


class NodeNetwork(TorchConfig):
    """Ray Train's config of torch.distributed, over the network that Ray uses."""

    @property
    def backend_cls(self) -> type["NodeNetworkBackend"]:
        """Backend class that Ray Train instantiates."""
        return NodeNetworkBackend


class NodeNetworkBackend(_TorchBackend):
    """Backend that selects the network interface on each worker and compares their GPUs before torch connects them."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Select the interface and compare the GPUs. Ray Train calls this when its workers run."""
        worker_group.execute(choose_interface)
        # Reported by the workers: Ray Train would restart the run after an error here.
        worker_group.execute(note_shared_gpu, shared_gpu(worker_group.execute(reserved_gpus)))
        super().on_start(worker_group, backend_config)


def reserved_gpus() -> GpusOfWorker:
    """Return the host of this worker, and the GPUs that Ray reserved for it."""
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return ray.util.get_node_ip_address(), tuple(gpus)
