"""What all requests to other servers share: those to webhooks and issuers, and the client's."""
