"""A file for each training stage, and what the stages share."""
