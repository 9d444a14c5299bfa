"""Build of the small world's weights."""
