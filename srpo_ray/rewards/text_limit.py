"""Warning about texts that exceed a reward model's token limit, since tokenizers truncate them silently."""

import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass
class TextLimit:
    """Warns once that a text was truncated, since its end is not scored."""

    reward: str
    """Name of the reward, for the message."""
    num_tokens: int
    """Maximum number of tokens that the model reads, start and end tokens included."""
    said: bool = False

    def say(self, text: str) -> None:
        """Warn about a text that is too long; further calls do nothing."""
        if not self.said:
            self.said = True
            logger.warning(
                "reward %r reads at most %d tokens. The rest of this text is not scored (warned once): %r",
                self.reward,
                self.num_tokens,
                text,
            )
