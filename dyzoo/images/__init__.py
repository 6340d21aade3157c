"""Pictures: read from every source, drawn on, and what was found in them."""
