"""Rules of subscriptions: commands, states, control paths, and the index by pattern."""
