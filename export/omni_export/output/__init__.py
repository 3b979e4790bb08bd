"""The folder that an export writes, and its progress."""
