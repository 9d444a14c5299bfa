"""Checks of the place where MLflow's records go, before Ray starts: an answer, credentials, a database's package."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import requests

from srpo_ray.credentials import expand_uri, redact

PROBE_S = 2.0
"""Seconds to wait for a connection."""
_CREDENTIALS = (
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_AUTH"),
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
"""Variables from which MLflow takes credentials."""
_DATABASES = ("postgresql", "mysql", "mssql")
"""Databases that MLflow supports beside sqlite, whose driver is a part of Python."""


def require_server(uri: str) -> None:
    """Check that the server of a tracking URI can be reached, and that credentials are set if it asks for them.

    Args:
        uri: Tracking URI. Of one of Databricks, only credentials are checked. Another one that is not of http or https
            names no server, and passes.

    Raises:
        ConnectionError: If nothing accepts a connection in time.
        ValueError: If an environment variable that the URI names is not set, the URI is invalid, or the server asks for
            credentials and none are set.
    """
    address = expand_uri(uri)
    if address.partition("://")[0] == "databricks":
        _check_databricks(uri)
    if not address.startswith(("http://", "https://")):
        return
    try:
        answer = requests.head(address, timeout=PROBE_S, allow_redirects=False)
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
    if answer.status_code == requests.codes.unauthorized and not _has_credentials(address):
        raise ValueError(
            f"tracking.uri: expected credentials for the MLflow server at {uri}, which asks for them, got none; set"
            " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )


def _has_credentials(address: str) -> bool:
    """Test whether MLflow has credentials of any kind to send; the server alone knows whether it accepts them."""
    if urlsplit(address).username or any(os.environ.get(name) for name in _CREDENTIALS):
        return True
    return (Path.home() / ".mlflow" / "credentials").exists()


def _check_databricks(uri: str) -> None:
    """Check that MLflow can find a workspace of Databricks: every kind of login needs a variable or the file."""
    file = Path(os.environ.get("DATABRICKS_CONFIG_FILE") or "~/.databrickscfg").expanduser()
    if file.exists() or any(value for name, value in os.environ.items() if name.startswith("DATABRICKS_")):
        return
    raise ValueError(
        f"tracking.uri: expected credentials for {uri}, got no DATABRICKS_HOST and no file {file}; set DATABRICKS_HOST"
        " and DATABRICKS_TOKEN, or run `databricks configure`"
    )


def check_database(uri: str) -> None:
    """Check that the database of a tracking URI has a driver on this machine.

    Args:
        uri: Tracking URI. One of a server, a folder or a sqlite file passes.

    Raises:
        ValueError: If its package is missing, or the URI names no database that SQLAlchemy knows.
    """
    if uri.partition("://")[0].partition("+")[0] not in _DATABASES:
        return
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(expand_uri(uri)).get_dialect().import_dbapi()
    except ImportError as error:
        raise ValueError(
            f"tracking.uri: expected the package of the database's driver, got none ({error}); install it, or name an"
            " installed one, such as postgresql+psycopg2://"
        ) from error
    except SQLAlchemyError as error:
        raise ValueError(
            f"tracking.uri: expected the address of a database that SQLAlchemy knows, got {uri} ({redact(error)});"
            " correct it"
        ) from error
