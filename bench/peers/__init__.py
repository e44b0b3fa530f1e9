"""What peers need to be run here."""
