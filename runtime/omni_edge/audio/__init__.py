"""Samples to mel blocks to embeds."""
