"""The head of ImageReward and of the aesthetic predictors: five linear layers in a row."""

from torch import nn

WIDTHS = (1024, 128, 64, 16, 1)


def linear_head(inputs: int, num_dropouts: int) -> nn.Sequential:
    """Linear layers without activations, numbered as in the published files.

    Args:
        inputs: Width of the features.
        num_dropouts: After how many of the layers the file counts a dropout, which has no weights but a number.

    Source: https://github.com/christophschuhmann/improved-aesthetic-predictor, whose layers the others took over.
    """
    layers: list[nn.Module] = []
    for index, outputs in enumerate(WIDTHS):
        layers.append(nn.Linear(inputs, outputs))
        if index < num_dropouts:
            layers.append(nn.Identity())
        inputs = outputs
    return nn.Sequential(*layers)
