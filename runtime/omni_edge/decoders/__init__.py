"""Embeds to tokens: the Thinker and the Talker with their KV caches."""
