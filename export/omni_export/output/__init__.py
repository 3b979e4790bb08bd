"""The folder that an export writes, and how far it has come."""
