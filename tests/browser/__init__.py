"""Pages in a real Chromium, with real servers: run by `./check browser`, not by plain trial."""
