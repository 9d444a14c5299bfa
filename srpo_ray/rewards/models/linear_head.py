"""Head of ImageReward and of the aesthetic predictors: a sequence of five linear layers."""

from torch import nn

WIDTHS = (1024, 128, 64, 16, 1)


def linear_head(inputs: int, num_dropouts: int) -> nn.Sequential:
    """Build linear layers without activations, numbered as in the published files.

    Args:
        inputs: Width of the features.
        num_dropouts: Number of layers that a dropout follows in the file; a dropout has an index but no weights.

    Source: https://github.com/christophschuhmann/improved-aesthetic-predictor, whose layers the others adopted.
    """
    layers: list[nn.Module] = []
    for index, outputs in enumerate(WIDTHS):
        layers.append(nn.Linear(inputs, outputs))
        if index < num_dropouts:
            layers.append(nn.Identity())
        inputs = outputs
    return nn.Sequential(*layers)
