"""Texts that are longer than a reward model reads: tokenizers cut them in silence."""

import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass
class TextLimit:
    """Says once that a text was cut, since its end is then not scored."""

    reward: str
    """Name of the reward, for the message."""
    num_tokens: int
    """Most tokens that the model reads, its own marks of start and end included."""
    said: bool = False

    def say(self, text: str) -> None:
        """Warn of a text that is too long; further calls do nothing."""
        if not self.said:
            self.said = True
            logger.warning(
                "reward %r reads %d tokens; the rest of this text is not scored (said once): %r",
                self.reward,
                self.num_tokens,
                text,
            )
