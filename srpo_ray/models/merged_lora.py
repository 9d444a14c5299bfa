"""LoRA that is added to the weights of a base model, before a run trains new adapters on top."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from srpo_ray.config.model import ModelConfig
from srpo_ray.models.families import family_of
from srpo_ray.models.lora_files import KEY, LoraLayer, read_lora, shown

_WEIGHT = ".weight"


class MergedLora:
    """Changes of a transformer's weights by a LoRA. Each is computed in float32 when its layer is loaded."""

    def __init__(self, path: str, layers: Mapping[str, LoraLayer]) -> None:
        """Take the adapters of a LoRA.

        Args:
            path: Path of the LoRA, for messages.
            layers: Name of the transformer's layer -> adapter.
        """
        self._path = path
        self._layers = layers

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check that all layers of the LoRA are linear layers of a transformer.

        Args:
            shapes: Parameter name -> shape.

        Raises:
            ValueError: If a layer does not exist, or has other inputs or outputs.
        """
        unmatched = [
            name
            for name, layer in self._layers.items()
            if tuple(shapes.get(f"{name}{_WEIGHT}", ())) != layer.shape  # one with other sizes is another layer
        ]
        if unmatched:
            linear = [name.removesuffix(_WEIGHT) for name, shape in shapes.items() if len(shape) == 2]
            raise ValueError(
                f"{KEY}: expected layers of the transformer with its sizes, such as {shown(linear)}, got {self._path!r}"
                f" with {len(self._layers)} layers, of which {shown(unmatched)} match none; give a LoRA of this model"
            )

    def added(self, name: str, weight: Tensor) -> Tensor:
        """Return a parameter with its change, in its data type and on its device; itself if the LoRA changes it not.

        Args:
            name: Name of the parameter.
            weight: The parameter.
        """
        layer = self._layers.get(name.removesuffix(_WEIGHT)) if name.endswith(_WEIGHT) else None
        return weight if layer is None else (weight.float() + layer.delta(weight.device)).to(weight.dtype)

    def add_to(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Change parameters in place, one layer at a time.

        Raises:
            ValueError: As `check`.
        """
        self.check({name: parameter.shape for name, parameter in parameters.items()})
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.data = self.added(name, parameter.data)


def merged_lora(model: ModelConfig, *, shapes_only: bool = False) -> MergedLora | None:
    """Read the LoRA that a run merges into its base model; None if it merges none.

    Args:
        model: Section `model`.
        shapes_only: Read no matrices, see `read_lora`.

    Raises:
        ValueError: If the LoRA cannot be read.
    """
    if model.lora is None or model.lora.merged is None:
        return None
    return MergedLora(model.lora.merged, read_lora(model.lora.merged, family_of(model.path), shapes_only=shapes_only))
