"""Sound, pictures and videos to embeds for the Thinker, and how many positions they take."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.front_end import AudioBlock
from omni_edge.conversation.live_sound import LiveVideo
from omni_edge.conversation.prompt import VideoTokens
from omni_edge.conversation.settings import CompleteSettings
from omni_edge.decoders.tmrope import time_ids
from omni_edge.events import AudioClip, ImageFrame, VideoClip
from omni_edge.model import Model
from omni_edge.vision.image_processor import ImageProcessor, VisionPatches, within_context

# A live video's frames have the size of those of a recorded video of this length.
_LIVE_VIDEO_SECONDS = 60


class MediaEncoder:
    """The encoders of a model with the pixel budgets of a conversation.

    Args:
        model: the loaded parts.
        settings: those of the conversation.
    """

    def __init__(self, model: Model, settings: CompleteSettings) -> None:
        self._model = model
        self._fps = settings.camera_fps
        self._images = ImageProcessor(within_context(model.manifest.vision, settings.context, settings.max_pixels))

    # -- sound -------------------------------------------------------------------------------------------------

    def sound_tokens(self, clip: AudioClip) -> int:
        """Positions that a sound takes; 0: it is too short for one."""
        return self._model.audio_front_end.tokens(len(clip.samples), clip.rate)

    def sound_blocks(self, clip: AudioClip) -> list[AudioBlock]:
        """The blocks of a whole sound."""
        return self._model.audio_front_end.clip(clip.samples, clip.rate)

    def video_sound_blocks(self, sound: AudioClip | None) -> list[AudioBlock]:
        """A video's sound; a track of a few milliseconds, as cutting tools leave behind, is none."""
        return self.sound_blocks(sound) if sound is not None and self.sound_tokens(sound) else []

    def sound(self, blocks: list[AudioBlock]) -> NDArray[np.float32]:
        """Embeds, float32 [n, hidden]."""
        return self._model.audio_encoder().encode([block.frames for block in blocks])

    # -- pictures and videos -----------------------------------------------------------------------------------

    def picture_patches(self, picture: ImageFrame) -> VisionPatches:
        """A picture within the conversation's pixel budget."""
        return self._images.image(picture.pixels)

    def video_patches(self, clip: VideoClip) -> VisionPatches:
        """A video's frames within the conversation's pixel budget."""
        return self._images.video(clip.frames, clip.fps)

    def patches(self, patches: VisionPatches) -> NDArray[np.float32]:
        """Embeds, float32 [n, hidden]."""
        return self._model.vision_encoder().encode(patches.patches, patches.grid)

    def merged(self, patches: VisionPatches) -> tuple[int, int, int]:
        """Temporal patches, merged rows and merged columns."""
        merge = self._model.manifest.vision.merge_size
        frames, height, width = patches.grid
        return frames, height // merge, width // merge

    def vision_tokens(self, patches: VisionPatches) -> int:
        """Positions that they take."""
        return int(np.prod(self.merged(patches)))

    # -- live videos -------------------------------------------------------------------------------------------

    def live_video(self) -> LiveVideo:
        """A live video without frames."""
        return LiveVideo(self._fps, self._model.manifest.vision.temporal_patch_size)

    def add_frame(self, video: LiveVideo, pixels: NDArray[np.uint8], seconds: float) -> None:
        """The next frame of a live video, visible from `seconds` of its sound on.

        It is encoded as soon as the moments of its temporal patch are over.

        Raises:
            MediaError: it is no picture.
        """
        video.add(self._images.live_frame(pixels, self._fps * _LIVE_VIDEO_SECONDS, video.size), seconds)
        first = video.next_moment
        while first + video.frames_per_patch <= video.moments(seconds) + 1:
            video.embeds(first, video.frames_per_patch, self._encode_frames)
            first += video.frames_per_patch

    def live_patches(self, video: LiveVideo, block: AudioBlock) -> tuple[int, int, int]:
        """Temporal patches that belong to a block of its sound, merged rows and merged columns."""
        section = self._model.manifest.vision
        assert video.size is not None  # it has a frame
        side = section.patch_size * section.merge_size
        _, count = self._moments(video, block)
        return -(-count // video.frames_per_patch), video.size[0] // side, video.size[1] // side

    def live_positions(self, video: LiveVideo) -> int:
        """Positions that the frames of a whole block of sound take."""
        assert video.size is not None  # it has a frame
        vision, positions = self._model.manifest.vision, self._model.manifest.positions
        patches = math.ceil(positions.seconds_per_chunk * self._fps / video.frames_per_patch)
        return patches * math.prod(each // (vision.patch_size * vision.merge_size) for each in video.size)

    def live_chunk(self, video: LiveVideo, block: AudioBlock) -> VideoTokens:
        """What a live video shows during a block of its sound."""
        first, count = self._moments(video, block)
        embeds = video.embeds(first, count, self._encode_frames)
        video.forget(first + count)
        patches, height, width = self.live_patches(video, block)
        before = first // video.frames_per_patch
        seconds = video.frames_per_patch / video.fps
        times = time_ids(before + patches, seconds, self._model.manifest.positions)[before:]
        return VideoTokens(embeds, times, height, width)

    def _encode_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.patches(self._images.live_patches(frames, self._fps))

    def _moments(self, video: LiveVideo, block: AudioBlock) -> tuple[int, int]:
        """The first moment during a block of sound, and how many there are."""
        audio = self._model.manifest.audio
        mel_rate = audio.sample_rate / audio.hop_length
        first = video.moments(block.index * audio.block_frames / mel_rate)
        return first, video.moments(block.frames.shape[1] / mel_rate)
