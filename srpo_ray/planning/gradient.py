"""The fullest moment of a backward pass: which graphs are still whole, and which gradients wait for the others'."""

from srpo_ray.planning.accounting import Part, present, total
from srpo_ray.planning.trace import Cost


def fullest_moment(transformer: Cost, decoder: Cost, *, losses: int, chained: int, gradients: int) -> tuple[Part, ...]:
    """What is held when a backward pass over the sum of several losses holds most.

    Autograd works through the graphs last to first, each from the decoder to the transformer. A parameter's gradient
    is whole, and can be averaged and let go of, when the last of all calls has added to it: until then the gradients
    of the calls before wait.

    Args:
        transformer: Cost of one call with gradient.
        decoder: Cost of the decoder for the same pictures.
        losses: Graphs in the sum.
        chained: Transformer calls in each of them.
        gradients: Bytes of the gradients of all trained parameters, in the data type of the backward pass.
    """
    moments = []
    for left in range(losses, 0, -1):
        waiting = gradients if left < losses else 0
        decoding = _moment(left * chained, transformer, left, decoder, decoder.peak - decoder.saved, waiting)
        moments.append(decoding)
        for calls in range(chained, 0, -1):
            waiting = gradients if left < losses or calls < chained else 0
            work = transformer.peak - transformer.saved
            moments.append(_moment((left - 1) * chained + calls, transformer, left - 1, decoder, work, waiting))
    return max(moments, key=total)


def _moment(calls: int, transformer: Cost, decodings: int, decoder: Cost, work: int, waiting: int) -> tuple[Part, ...]:
    return present(
        Part("activations, transformer", calls * transformer.saved),
        Part("activations, VAE decoder", decodings * decoder.saved),
        Part("backward pass at work", work),
        Part("gradients between losses", waiting),
    )
