"""HTTP client of served rewards: concurrent requests with a limit, retries with back-off, one error per failure."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from srpo_ray.config.served_rewards import ServedRewardSection
from srpo_ray.credentials import expand, expand_uri, redact

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
REPEATED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes after which a request is repeated."""
SHOWN_CHARACTERS = 200


class ServerError(RuntimeError):
    """Request without a usable answer; the message states the address and the cause, and contains no key."""


class ServerClient:
    """Client of one server.

    Args:
        config: Address, key, timeout, attempts and concurrency.

    Raises:
        ValueError: If the address or the key names an environment variable that is not set.
    """

    def __init__(self, config: ServedRewardSection) -> None:
        self._config = config
        self._url = expand_uri(config.url).rstrip("/")
        self._key = key = expand(config.api_key)
        self._session = requests.Session()
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=config.concurrency)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def post_all(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Send JSON bodies, at most `concurrency` at a time, and return the JSON answers in the same order.

        Args:
            path: Path below the address, such as `/chat/completions`, or empty.
            bodies: One body per request.

        Raises:
            ServerError: If a request has no answer after the last attempt, or the answer is not JSON. Requests that
                have not started are dropped.
        """
        if not bodies:
            return []
        workers = min(self._config.concurrency, len(bodies))
        with ThreadPoolExecutor(workers, thread_name_prefix=f"reward-{self._config.name}") as executor:
            futures = [executor.submit(self._post, self._url + path, body) for body in bodies]
            try:
                return [future.result() for future in futures]
            finally:
                executor.shutdown(wait=False, cancel_futures=True)

    def _post(self, url: str, body: Mapping[str, Any]) -> Any:
        pause, reason = FIRST_PAUSE_S, ""
        for attempt in range(1, self._config.max_attempts + 1):
            try:
                response = self._session.post(url, json=body, timeout=self._config.timeout_s)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                reason, wait = _cause(error, self._config.timeout_s), pause
            except requests.RequestException as error:
                raise self._error(url, redact(error), attempt) from None
            else:
                if response.ok:
                    return self._json(url, response, attempt)
                reason, wait = f"HTTP {response.status_code}: {_excerpt(response)}", _pause(response, pause)
                if response.status_code not in REPEATED:
                    raise self._error(url, reason, attempt)
            if attempt < self._config.max_attempts:
                time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        raise self._error(url, reason, self._config.max_attempts)

    def _json(self, url: str, response: requests.Response, attempt: int) -> Any:
        try:
            return response.json()
        except ValueError:
            raise self._error(url, f"an answer that is not JSON: {_excerpt(response)}", attempt) from None

    def _error(self, url: str, reason: str, attempts: int) -> ServerError:
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        # A server may quote the key that it refuses.
        reason = reason.replace(self._key, "***") if self._key else reason
        return ServerError(
            f"expected an answer of the server at {redact(url)}, received {reason} ({tries}); check `url`, `api_key`"
            " and the server's log"
        )


def _cause(error: requests.RequestException, timeout_s: float) -> str:
    if isinstance(error, requests.Timeout):
        return f"none within {timeout_s:g} s"
    return f"no connection or a broken one ({redact(error)[:SHOWN_CHARACTERS]})"


def _excerpt(response: requests.Response) -> str:
    return redact(" ".join(response.text.split()))[:SHOWN_CHARACTERS] or "an empty body"


def _pause(response: requests.Response, pause: float) -> float:
    """Seconds until the next attempt: the server's Retry-After if it is a number, otherwise the back-off."""
    try:
        return min(max(float(response.headers.get("Retry-After", pause)), 0.0), LONGEST_PAUSE_S)
    except ValueError:
        return pause
