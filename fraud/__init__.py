"""What we make of what was seen: signals, scores, assessments, flags."""
