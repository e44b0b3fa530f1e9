"""The protocol: pure rules and codecs, nothing of Twisted, of a store or of a socket.

Where each section of PROTOCOL.md lives:

====================  ====================================================
4, 4.1                state, transitions
4.2                   forks
5.1-5.4               requests, bodies, transitions
5.2.1                 producers
5.5                   answers
5.6, 5.7              requests, answers
5.8                   sse
6.1-6.4               subscription_requests, subscription_index, globs
7                     subscriptions
8                     offsets, lineage
9                     content_types, bodies
9.1                   json_mode
10.1                  cursors, caching
12.2                  paths
12.4, 12.6            transitions
13.2                  fields
====================  ====================================================

Bounds are in limits, refusals in errors.
"""
