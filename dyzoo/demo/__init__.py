"""Demonstrations of a detector for people who have nothing installed."""
