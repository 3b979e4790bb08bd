"""Pixels to patches to embeds."""
