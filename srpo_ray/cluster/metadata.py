"""Preemption notices from a cloud's metadata service, for the machine that asks.

The service answers on a local address, without credentials. This module never writes to it: confirming an event would
only end the machine earlier.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol

DEFAULT_URL = "http://169.254.169.254"
"""Address of the metadata service of AWS, Google and Azure."""

_TIMEOUT_S = 5.0
_TOKEN_TTL_S = 21600
_GOOGLE_NOTICE = timedelta(seconds=30)
"""Time between Google's preemption notice, which has no deadline, and the end of the machine."""
_GOOGLE_MAINTENANCE = timedelta(seconds=60)
"""Minimum time between Google's notice of terminating maintenance and the end of the machine."""


class MetadataError(ConnectionError):
    """Error of a metadata service that does not answer, or whose answer is not that of the cloud."""


@dataclass(frozen=True)
class Notice:
    """Preemption notice for this machine."""

    cause: str
    """Name of the event in the cloud."""
    deadline: datetime
    """Time at which the machine ends, with its time zone."""


class Metadata(Protocol):
    """Metadata service of one cloud."""

    def check(self) -> None:
        """Check that the service answers.

        Raises:
            MetadataError: If it does not.
        """
        ...

    def notice(self) -> Notice | None:
        """Request the preemption notice for this machine; None without a notice.

        Raises:
            MetadataError: If the service does not answer, or its answer cannot be parsed.
        """
        ...


class AWS:
    """Amazon EC2, version 2 of its service, which requires a token in each request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._token: str | None = None

    def check(self) -> None:
        self._token = self._new_token()

    def notice(self) -> Notice | None:
        status, text = self._get("/latest/meta-data/spot/instance-action")
        if status == http.client.NOT_FOUND:
            return None
        _require_ok(status, "spot/instance-action")
        try:
            action = json.loads(text)
            return Notice(f"spot {action['action']}", _utc(datetime.fromisoformat(action["time"])))
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataError(f"spot/instance-action: expected an action and its time, got {text[:200]!r}") from error

    def _get(self, path: str) -> tuple[int, str]:
        token = self._token or self._new_token()
        status, text = _request(self._url + path, {"X-aws-ec2-metadata-token": token})
        # A token expires after some hours; the next request then fetches a new one.
        self._token = None if status == http.client.UNAUTHORIZED else token
        return status, text

    def _new_token(self) -> str:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
        status, token = _request(f"{self._url}/latest/api/token", lifetime, method="PUT")
        _require_ok(status, "api/token")
        return token


class GCP:
    """Google Compute Engine."""

    def __init__(self, url: str) -> None:
        self._url = url

    def check(self) -> None:
        self._get("preempted")

    def notice(self) -> Notice | None:
        if self._get("preempted") == "TRUE":
            return Notice("preempted", datetime.now(UTC) + _GOOGLE_NOTICE)
        event = self._get("maintenance-event")
        if event == "TERMINATE_ON_HOST_MAINTENANCE":
            return Notice(event, datetime.now(UTC) + _GOOGLE_MAINTENANCE)
        return None

    def _get(self, name: str) -> str:
        url = f"{self._url}/computeMetadata/v1/instance/{name}"
        status, text = _request(url, {"Metadata-Flavor": "Google"})
        _require_ok(status, name)
        return text.strip()


class Azure:
    """Microsoft Azure's Scheduled Events."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name: str | None = None

    def check(self) -> None:
        self._name = self._machine()

    def notice(self) -> Notice | None:
        name = self._name or self._machine()
        text = self._get("scheduledevents?api-version=2020-07-01")
        try:
            # The answer includes events of the other machines of a scale set.
            events = [
                event
                for event in json.loads(text)["Events"]
                if event["EventType"] == "Preempt" and name in event["Resources"]
            ]
            # An event that has started has no time.
            deadlines = [
                _utc(parsedate_to_datetime(event["NotBefore"])) if event["NotBefore"] else datetime.now(UTC)
                for event in events
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataError(f"scheduledevents: expected events and their times, got {text[:200]!r}") from error
        return Notice("Preempt", min(deadlines)) if deadlines else None

    def _machine(self) -> str:
        return self._get("instance/compute/name?api-version=2021-02-01&format=text").strip()

    def _get(self, path: str) -> str:
        status, text = _request(f"{self._url}/metadata/{path}", {"Metadata": "true"})
        _require_ok(status, path)
        return text


CLOUDS: Mapping[str, type[AWS] | type[GCP] | type[Azure]] = {"aws": AWS, "gcp": GCP, "azure": Azure}


def find_metadata(cloud: str, url: str = DEFAULT_URL) -> tuple[str, Metadata]:
    """Find the metadata service of this machine.

    Args:
        cloud: Name in `CLOUDS`, or `auto` for the cloud whose service answers.
        url: Address of the service, without a path.

    Returns:
        Name of the cloud, and its service.

    Raises:
        ValueError: If the service does not answer.
    """
    reasons = []
    for name in CLOUDS if cloud == "auto" else (cloud,):
        metadata = CLOUDS[name](url.rstrip("/"))
        try:
            metadata.check()
        except MetadataError as error:
            reasons.append(f"{name}: {error}")
            continue
        return name, metadata
    raise ValueError(
        f"--cloud: expected the metadata service of {'a cloud' if cloud == 'auto' else cloud} at {url}, got no such"
        f" answer ({'; '.join(reasons)}); run this on a machine of the cloud, or correct --cloud or --metadata-url"
    )


def _request(url: str, headers: Mapping[str, str], method: str = "GET") -> tuple[int, str]:
    """Send a request, and return status and body of the answer."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    # Ignore the environment's proxy: the service identifies the machine by its connection.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise MetadataError(f"{url}: {error or type(error).__name__}") from error


def _require_ok(status: int, what: str) -> None:
    if status != http.client.OK:
        raise MetadataError(f"{what}: expected HTTP status 200, got {status}")


def _utc(time: datetime) -> datetime:
    """Set the time zone to UTC, which all three clouds use, some without a suffix."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
