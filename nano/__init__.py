"""omni-nano: a Qwen2.5-Omni of a few million parameters for a closed world, and the recipe that makes it."""
