"""The Wyoming protocol, by which Home Assistant uses speech recognition, answers and speech."""
