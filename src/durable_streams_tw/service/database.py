"""Settings of the PostgreSQL database."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from durable_streams_tw.service.configuration import Configuration

if TYPE_CHECKING:
    from durable_streams_tw.storage.postgres.connection import DatabaseSettings


def database_settings(configuration: Configuration) -> DatabaseSettings | None:
    """Return the settings of the database, None if streams are stored elsewhere.

    Raises `ConfigurationError` if psycopg is not installed.
    """
    if configuration["database"] is None:
        return None
    try:
        # Imported here, because psycopg is optional.
        from durable_streams_tw.storage.postgres.connection import DatabaseSettings
    except ImportError:
        raise configuration.error(
            "database",
            "psycopg is not installed. Install durable-streams-tw with its extra 'postgres'",
        ) from None
    return DatabaseSettings(
        url=configuration["database"],
        schema=configuration["database-schema"],
        listen_url=configuration["database-listen"],
        timeout=configuration["database-timeout"],
        node=configuration["node"] or socket.gethostname(),
        unsafe=configuration["unsafe-database"],
    )
