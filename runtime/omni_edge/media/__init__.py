"""Files to events and back: the only room that imports PyAV and OpenCV, and it does so when a file needs them."""

from omni_edge.media.load import load_audio, load_image, load_video

__all__ = ["load_audio", "load_image", "load_video"]
