package dev.omniedge.conversation

import dev.omniedge.AudioClip
import dev.omniedge.ImageFrame
import dev.omniedge.Media
import dev.omniedge.MediaException
import dev.omniedge.Model
import dev.omniedge.PcmBlock
import dev.omniedge.UsageException
import dev.omniedge.VideoClip
import dev.omniedge.audio.AudioBlock
import dev.omniedge.audio.AudioFrontEndState
import dev.omniedge.numeric.Matrix
import dev.omniedge.vision.ImageProcessor
import dev.omniedge.vision.VisionPatches
import dev.omniedge.vision.within

// Positions kept free for closing one turn and opening the next, roles included; generous.
private const val MARKS_PER_TURN = 24

/**
 * A live sound that is open.
 *
 * @property begun whether a part of it is in the context.
 */
internal class LiveSound(val state: AudioFrontEndState, var begun: Boolean = false) {
    fun copy() = LiveSound(state.copy(), begun)
}

/**
 * The user's turn: text, sound, pictures and videos, encoded and prefilled as soon as they are complete; it is opened
 * where it is not open.
 */
internal class UserTurn(private val model: Model, private val settings: CompleteSettings, private val context: Context) {
    private val images = ImageProcessor(model.manifest.vision.within(settings.context, settings.maxPixels))

    /** Where the turns so far lie. */
    var turns = Turns()

    /** The live sound that is open, or null. */
    var live: LiveSound? = null

    /** See [Session.push]. */
    fun push(text: String) {
        endSound()
        reserve(model.tokenizer.encode(text).size)
        opened { context.pending.write(text) }
    }

    /** See [Session.push]. */
    fun push(media: Media) {
        if (media !is PcmBlock) endSound()
        when (media) {
            is PcmBlock -> pushPiece(media)
            is AudioClip -> pushClip(media)
            is ImageFrame -> pushPicture(images.image(media))
            is VideoClip -> pushVideo(media)
        }
    }

    /** Ends the live sound, if one is open. */
    fun endSound() {
        live?.let { pushPiece(PcmBlock(FloatArray(0), it.state.rate, end = true)) }
    }

    /** Checks that [count] more positions fit beside what waits and the marks around a turn. */
    fun reserve(count: Int) {
        val opening = if (context.offset == 0) model.tokenizer.encode(settings.system).size else 0
        context.reserve(opening + count + MARKS_PER_TURN)
    }

    /** Closes the turn before, if there is one, and writes what [add] writes; an error within changes nothing. */
    inline fun behindTurns(add: () -> Unit): Turns = context.unchangedOnError {
        val pending = context.pending
        var after = turns
        if (!turns.open && turns.replyStarts.isNotEmpty()) {
            after = turns.copy(replyStops = turns.replyStops + context.offset)
            pending.endTurn()
        } else if (context.offset == 0 && settings.system.isNotEmpty()) {
            pending.system(settings.system)
        }
        add()
        after
    }

    /** Opens the user's turn where it is not open, and adds to it. */
    private inline fun opened(add: () -> Unit) {
        val after = behindTurns {
            if (!turns.open) context.pending.user()
            add()
        }
        turns = after.copy(open = true)
    }

    private fun encode(blocks: List<AudioBlock>): Matrix = model.audioEncoder().encode(blocks.map { it.frames })

    private fun pushClip(clip: AudioClip) {
        val frontEnd = model.audioFrontEnd
        reserve(frontEnd.tokens(clip.samples.size, clip.rate))
        val embeds = encode(frontEnd.clip(clip.samples, clip.rate))
        opened {
            context.pending.beginSound()
            context.pending.sound(embeds)
            context.pending.endSound()
            context.prefill()
        }
    }

    private fun pushPiece(piece: PcmBlock) {
        val open = live ?: LiveSound(model.audioFrontEnd.state(piece.rate))
        if (open.state.rate != piece.rate) {
            throw UsageException(
                "This sound came at ${open.state.rate} Hz, and now at ${piece.rate}. " +
                    "End it (end = true) before changing.",
            )
        }
        val blocks = try {
            model.audioFrontEnd.step(piece.samples, open.state, piece.end)
        } catch (error: MediaException) {
            if (open.state.ended) live = null
            throw error
        }
        live = open.takeUnless { piece.end }
        for (block in blocks) {
            reserve(block.tokens)
            val embeds = encode(listOf(block))
            opened {
                if (!open.begun) context.pending.beginSound()
                context.pending.sound(embeds)
                context.prefill()
            }
            open.begun = true
        }
        if (piece.end && open.begun) context.pending.endSound()
    }

    private fun pushPicture(picture: VisionPatches) {
        val grid = picture.grid.merged(model.manifest.vision.mergeSize)
        reserve(grid.size)
        val embeds = model.visionEncoder().encode(picture)
        opened {
            context.pending.picture(embeds, grid)
            context.prefill()
        }
    }

    private fun pushVideo(clip: VideoClip) {
        val video = images.video(clip.frames, clip.fps)
        val grid = video.grid.merged(model.manifest.vision.mergeSize)
        val blocks = soundBlocks(clip.sound)
        reserve(grid.size + blocks.sumOf { it.tokens })
        val embeds = model.visionEncoder().encode(video)
        val soundEmbeds = if (blocks.isEmpty()) null else encode(blocks)
        opened {
            context.pending.video(embeds, grid, video.secondsPerGrid, soundEmbeds)
            context.prefill()
        }
    }

    /** A video's sound; a track of a few milliseconds, as cutting tools leave behind, is none. */
    private fun soundBlocks(sound: AudioClip?): List<AudioBlock> {
        val frontEnd = model.audioFrontEnd
        if (sound == null || frontEnd.tokens(sound.samples.size, sound.rate) == 0) return emptyList()
        return frontEnd.clip(sound.samples, sound.rate)
    }
}
