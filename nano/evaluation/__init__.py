"""The evaluation on held-out data."""
