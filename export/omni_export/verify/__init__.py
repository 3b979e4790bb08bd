"""A bundle's graphs beside the reference implementation."""
