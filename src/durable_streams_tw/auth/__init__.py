"""Who may do what: grants, tokens, keys, origins, rates. Decisions only, over plain values; what
asks the network or the clock for them stands in `server` and `service`."""
