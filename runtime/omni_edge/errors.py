"""Every error this project raises on purpose, with the exit code the command line gives it.

    OmniEdgeError           1   something went wrong while running
    |-- UsageError          2   the caller asked for something that does not exist (an unknown voice, a bad setting)
    |-- CheckpointError     3   a checkpoint that cannot be read or exported
    |-- BundleError         3   a bundle that is missing, damaged or of another format
    |-- ConversationError   3   a saved conversation that is missing, damaged or of another bundle
    |-- MediaError          4   sound, picture or video that cannot be used
    |-- DeviceError         5   loudspeaker, microphone or camera
    |-- ResourceError       6   memory, disk or hardware
    |-- ServerError         7   the server cannot listen, or its certificate cannot be used
    `-- ContextFullError    1   the conversation no longer fits into the session's context

A message says what happened, why, and what to do next, in one or two sentences that a user can act on.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CheckpointError",
    "ContextFullError",
    "ConversationError",
    "DeviceError",
    "MediaError",
    "OmniEdgeError",
    "ResourceError",
    "ServerError",
    "UsageError",
]


class OmniEdgeError(Exception):
    """Base of every deliberate error; `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(OmniEdgeError):
    """The request itself is wrong; the message names the valid choices."""

    exit_code = 2


class CheckpointError(OmniEdgeError):
    """The checkpoint is missing, truncated, of another architecture, or lacks a tensor."""

    exit_code = 3


class BundleError(OmniEdgeError):
    """The bundle is missing, damaged, of an unknown format version, or reaches outside its folder."""

    exit_code = 3


class ConversationError(OmniEdgeError):
    """The saved conversation is missing, damaged, of an unknown format version, or of another bundle."""

    exit_code = 3


class MediaError(OmniEdgeError):
    """The sound, picture or video cannot be decoded or lies outside what the model accepts."""

    exit_code = 4


class DeviceError(OmniEdgeError):
    """A loudspeaker, microphone or camera is absent or vanished."""

    exit_code = 5


class ResourceError(OmniEdgeError):
    """Memory, disk space or an instruction set is missing."""

    exit_code = 6


class ServerError(OmniEdgeError):
    """The server is not installed, cannot listen at its address, or cannot use its certificate."""

    exit_code = 7


class ContextFullError(OmniEdgeError):
    """The session's context has no room for what was pushed; the session is unchanged."""
