"""Check that an MLflow server answers, before Ray starts."""

import requests

from srpo_ray.credentials import expand_uri, redact

PROBE_S = 2.0
"""Seconds to wait for a connection."""


def require_server(uri: str) -> None:
    """Check that the server of a tracking URI can be reached; any answer will do, also a refusal.

    Args:
        uri: Tracking URI. One that is not of http or https names no server, and passes.

    Raises:
        ConnectionError: If nothing accepts a connection in time.
        ValueError: If an environment variable that the URI names is not set, or the URI is invalid.
    """
    address = expand_uri(uri)
    if not address.startswith(("http://", "https://")):
        return
    try:
        requests.head(address, timeout=PROBE_S, allow_redirects=False)
    except (requests.exceptions.SSLError, requests.exceptions.ReadTimeout):
        # Something answers. MLflow has its own settings for certificates and slow answers.
        return
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL) as error:
        raise ValueError(
            f"tracking.uri: expected the address of an MLflow server, got {uri} ({redact(error)}); correct it"
        ) from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise ConnectionError(
            f"expected an MLflow server at {uri}, got no answer ({redact(error)}); start it, or set tracking.uri to"
            " another one, or unset it for a sqlite file in the run root"
        ) from error
