"""Text features computed once per text: prompts and control words come back, and texts carry no gradient."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor


class TextFeatures:
    """A least-recently-used cache in front of a text encoder.

    Args:
        encode: Maps N texts to features `[N, D]`, without gradient.
        capacity: Most texts kept. 65,536 features of width 1024 in float32 take 256 MB.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], capacity: int = 65_536) -> None:
        self._encode = encode
        self._capacity = capacity
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def lookup(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """The feature `[D]` of each text; the unknown ones are encoded together, in order of appearance."""
        wanted = list(dict.fromkeys(texts))
        missing = [text for text in wanted if text not in self._features]
        found = {text: self._features[text] for text in wanted if text in self._features}
        if missing:
            # A row of its own, as a view would keep the whole batch alive after its neighbours are dropped.
            found.update((text, row.clone()) for text, row in zip(missing, self._encode(missing), strict=True))
        for text in wanted:
            self._features[text] = found[text]
            self._features.move_to_end(text)
        while len(self._features) > self._capacity:
            self._features.popitem(last=False)
        return found
