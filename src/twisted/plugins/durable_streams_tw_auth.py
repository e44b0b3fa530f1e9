"""Plugins that register the kinds of ``--auth`` with Twisted.

Twisted imports this file when a program lists checkers; it does not import the checkers.
"""

from durable_streams_tw.service.auth_plugin import LazyCheckerFactory

fileTokens = LazyCheckerFactory(
    "file",
    "durable_streams_tw.service.auth_checkers.file_tokens",
    "PATH",
    "Tokens listed by their hashes in a TOML file.",
)

jwtTokens = LazyCheckerFactory(
    "jwt",
    "durable_streams_tw.service.auth_checkers.jwt_tokens",
    "issuer=URL,audience=NAME,jwks=URL[,claim=NAME][,algorithms=A+B][,typ=TYPE]",
    "JSON Web Tokens of an issuer with a JWK set at a URL or in a file.",
)
