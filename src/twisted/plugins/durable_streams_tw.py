"""Plugin that registers ``durable-streams`` with ``twistd``.

Every run of ``twistd`` imports this file, so it must import little. Neither this directory nor its
parent may have an ``__init__.py``: ``twisted.plugins`` is a package of Twisted.
"""

from twisted.application.service import ServiceMaker

durableStreams = ServiceMaker(
    "Durable Streams server",
    "durable_streams_tw.service.make_service",
    "A server for the Durable Streams protocol.",
    "durable-streams",
)
