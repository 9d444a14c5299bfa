"""Everything that makes the weights of the small world."""
