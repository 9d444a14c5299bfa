"""Receivers of a tracker's records: the interface, and a thread that delivers to one of them."""

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from srpo_ray.tracking.spool import Spool

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0


class DeliveryError(Exception):
    """Failure of a delivery; the message has no credentials. A later attempt may succeed."""


class Sink(Protocol):
    """Receiver of a tracker's records, such as MLflow. Only one thread uses it."""

    @property
    def name(self) -> str:
        """Name of the receiver in the spool."""
        ...

    @property
    def title(self) -> str:
        """Name of the receiver and its address, for messages."""
        ...

    def deliver(self, spool: Spool) -> int:
        """Send all undelivered records in order, and acknowledge those that can no longer be lost.

        Returns:
            Number of records sent.

        Raises:
            DeliveryError: At the first record that cannot be sent.
        """
        ...

    def release(self, spool: Spool) -> None:
        """End the connection of this process, so that everything sent is stored, and acknowledge it.

        Raises:
            DeliveryError: If it cannot be stored.
        """
        ...


class DeliveryThread:
    """Daemon thread that delivers the records of a spool to one sink, and tries again after failures.

    Args:
        sink: The receiver.
        spool: Queue of the records.
        flush_interval_s: Seconds between two deliveries.
    """

    def __init__(self, sink: Sink, spool: Spool, flush_interval_s: float) -> None:
        self._sink = sink
        self._spool = spool
        self._flush_interval_s = flush_interval_s
        self._closing = threading.Event()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._run, name=sink.name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let the thread deliver until everything is sent, for at most `timeout_s` seconds. Returns at once."""
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread, and return True if it has ended."""
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._deliver_until_closed()
        try:
            self._sink.release(self._spool)
        except DeliveryError as error:
            _log.warning("%s: %s", self._sink.title, error)

    def _deliver_until_closed(self) -> None:
        failures = 0
        while True:
            last_round = self._closing.is_set()
            try:
                self._sink.deliver(self._spool)
            except DeliveryError as error:
                if failures == 0:
                    _log.warning(
                        "%s: %s. Training continues; records are buffered in %s",
                        self._sink.title,
                        error,
                        self._spool.path,
                    )
                failures += 1
                delay = min(_FIRST_RETRY_S * 2 ** (failures - 1), _LAST_RETRY_S)
            else:
                if last_round:
                    return
                if failures:
                    _log.info("%s has received all records", self._sink.title)
                failures = 0
                delay = self._flush_interval_s
            if not self._closing.wait(delay):
                continue
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                return
            if failures:
                time.sleep(min(delay, _FIRST_RETRY_S, remaining))


def deliver_once(sinks: Sequence[Sink], spool: Spool) -> int:
    """Send what each sink lacks, and end the connections. A sink that fails does not keep the others from receiving.

    Returns:
        Number of records sent, over all sinks.

    Raises:
        DeliveryError: If a sink failed, after all were tried. The message names each of them.
    """
    count, problems = 0, []
    for sink in sinks:
        try:
            count += sink.deliver(spool)
            sink.release(spool)
        except DeliveryError as error:
            problems.append(f"{sink.title}: {error}")
    if problems:
        raise DeliveryError("; ".join(problems))
    return count
