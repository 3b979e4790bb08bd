"""Files to events and back: the only room that knows PyAV and OpenCV."""
