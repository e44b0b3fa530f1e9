"""Tells Twisted of the kinds of tokens that ``--auth`` knows.

Imported only when somebody looks for checkers; it imports their names, and not them.
"""

from durable_streams_tw.service.auth_plugin import LazyCheckerFactory

fileTokens = LazyCheckerFactory(
    "file",
    "durable_streams_tw.service.auth_checkers.file_tokens",
    "PATH",
    "Tokens that stand, hashed, in a TOML file.",
)

jwtTokens = LazyCheckerFactory(
    "jwt",
    "durable_streams_tw.service.auth_checkers.jwt_tokens",
    "issuer=URL,audience=NAME,jwks=URL[,claim=NAME][,algorithms=A+B][,typ=TYPE]",
    "JSON Web Tokens of an issuer whose keys are at a URL or in a file.",
)
