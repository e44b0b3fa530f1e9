"""HTTP servers of streams: HTTP/1.1 engine, HTTP/2, twisted.web site, and their handlers."""
