"""Offsets and masks of every position, and how a `high` branch reads them."""
