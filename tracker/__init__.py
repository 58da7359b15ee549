"""What was seen: links, clicks, the journal, conversions, attribution."""
