"""What can be promoted: feed sources, imports, the catalogue."""
