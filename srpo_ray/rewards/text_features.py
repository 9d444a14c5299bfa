"""Cache of text features, which need no gradient; prompts and control words repeat from update to update."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor


class TextFeatures:
    """Least-recently-used cache in front of a text encoder.

    Args:
        encode: Maps N texts to features `[N, D]`, without gradient.
        capacity: Maximum number of cached texts. 65,536 features of width 1024 in float32 take 256 MB.
    """

    def __init__(self, encode: Callable[[list[str]], Tensor], capacity: int = 65_536) -> None:
        self._encode = encode
        self._capacity = capacity
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def lookup(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Return the feature `[D]` of each text; missing ones are encoded in one batch, in order of appearance."""
        wanted = list(dict.fromkeys(texts))
        missing = [text for text in wanted if text not in self._features]
        found = {text: self._features[text] for text in wanted if text in self._features}
        if missing:
            # Cloned, since a view would keep the whole batch in memory after the other rows are evicted.
            found.update((text, row.clone()) for text, row in zip(missing, self._encode(missing), strict=True))
        for text in wanted:
            self._features[text] = found[text]
            self._features.move_to_end(text)
        while len(self._features) > self._capacity:
            self._features.popitem(last=False)
        return found
