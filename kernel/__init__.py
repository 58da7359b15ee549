"""What every package stands on; no domain word may enter."""
