"""Authentication and authorization without HTTP: tokens, JWKS, grants, origins, rate limits."""
