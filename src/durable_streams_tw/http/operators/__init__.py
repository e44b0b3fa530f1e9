"""Resources for operators below /-/."""
