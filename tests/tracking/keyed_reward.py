"""A reward that needs a key, as one that asks a service would."""

import os

from tests.training.faulty_rewards import Brightness


class KeyedReward(Brightness):
    """Refuses to be made with anything but the value of `PLANTED_KEY`."""

    def __init__(self, api_key: str) -> None:
        if api_key != os.environ["PLANTED_KEY"]:
            raise ValueError("wrong key")
        super().__init__()
