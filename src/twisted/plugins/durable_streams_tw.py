"""Tells ``twistd`` that ``durable-streams`` exists.

Every run of ``twistd`` imports this file, so it imports nothing but the name holder. There is
no ``__init__.py`` beside it or above it: ``twisted.plugins`` is a package of Twisted's own.
"""

from twisted.application.service import ServiceMaker

durableStreams = ServiceMaker(
    "Durable Streams server",
    "durable_streams_tw.service.make_service",
    "A server for the Durable Streams protocol.",
    "durable-streams",
)
