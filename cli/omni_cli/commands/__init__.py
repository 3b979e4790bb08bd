"""One file a command: it parses, calls the library, and prints."""
