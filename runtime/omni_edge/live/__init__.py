"""Talking: microphone blocks in at their own pace, turns, interruptions and speech out. No device is opened here."""
