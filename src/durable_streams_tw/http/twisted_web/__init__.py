"""Klein resource and site on twisted.web."""
