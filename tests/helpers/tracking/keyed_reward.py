"""A reward that needs a key, like a client of a remote service."""

import os

from tests.helpers.training.faulty_rewards import Brightness


class KeyedReward(Brightness):
    """Reward whose constructor refuses any key but the value of `PLANTED_KEY`."""

    def __init__(self, api_key: str) -> None:
        if api_key != os.environ["PLANTED_KEY"]:
            raise ValueError("wrong key")
        super().__init__()
