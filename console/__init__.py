"""HTML for managers, publishers and advertisers."""
