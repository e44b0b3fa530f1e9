"""Rules and formats of the protocol as pure functions: no Twisted, no storage, no sockets.

Where each section of PROTOCOL.md is implemented:

====================  ====================================================
4, 4.1                streams.state, streams.transitions
4.2                   streams.forks
5.1-5.4               streams.parsing, streams.bodies, streams.transitions
5.2.1                 streams.producers
5.5                   streams.responses
5.6, 5.7              streams.parsing, streams.responses
5.8                   streams.sse
6                     subscriptions.control_paths
6.1-6.4               subscriptions.parsing, subscriptions.index,
                      subscriptions.globs
7                     subscriptions.parsing, subscriptions.state
8                     streams.offsets, streams.lineage
9                     content_types, streams.bodies
9.1                   json_mode
10.1                  cursors, caching
12.2                  paths
12.4, 12.6            streams.transitions
13.2                  headers
====================  ====================================================

Limits are defined in limits, refusals in errors.
"""
