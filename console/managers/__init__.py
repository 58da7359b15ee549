"""Pages for those who run the network."""
