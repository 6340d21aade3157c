"""One DyHead block over a whole pyramid."""
