"""Settings of the PostgreSQL database."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from durable_streams_tw.service.configuration import Configuration

if TYPE_CHECKING:
    from durable_streams_tw.storage.postgres.connection import DatabaseSettings


def database_settings(configuration: Configuration) -> DatabaseSettings | None:
    """Return the settings of the database, None if streams are stored elsewhere.

    Raises `ConfigurationError` if psycopg is not installed or libpq does not accept a URL.
    """
    if configuration["database"] is None:
        return None
    try:
        # Imported here, because psycopg is optional.
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        from durable_streams_tw.storage.postgres.connection import DatabaseSettings
    except ImportError:
        raise configuration.error(
            "database",
            "psycopg is not installed. Install durable-streams-tw with its extra 'postgres'",
        ) from None
    for name in ("database", "database-listen"):
        try:
            conninfo_to_dict(configuration[name] or "")
        except ProgrammingError as error:
            # Other messages of libpq may contain the password.
            reason = str(error).strip()
            known = reason.startswith("invalid URI query parameter")
            raise configuration.error(name, reason if known else "is not a valid URL") from None
    return DatabaseSettings(
        url=configuration["database"],
        schema=configuration["database-schema"],
        listen_url=configuration["database-listen"],
        timeout=configuration["database-timeout"],
        node=configuration["node"] or socket.gethostname(),
        unsafe=configuration["unsafe-database"],
    )
