package dev.omniedge.conversation

import dev.omniedge.AudioClip
import dev.omniedge.Event
import dev.omniedge.ImageFrame
import dev.omniedge.Media
import dev.omniedge.MediaException
import dev.omniedge.Model
import dev.omniedge.PcmBlock
import dev.omniedge.UsageException
import dev.omniedge.VideoClip
import dev.omniedge.audio.AudioBlock
import dev.omniedge.audio.AudioFrontEndState
import dev.omniedge.decoders.Sampler
import dev.omniedge.numeric.Matrix
import dev.omniedge.vision.ImageProcessor
import dev.omniedge.vision.VisionPatches
import dev.omniedge.vision.within
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

// Independent random streams of one seed.
private const val THINKER_STREAM = 0L
private const val TALKER_STREAM = 1L

// Positions kept free for closing one turn and opening the next, roles included; generous.
private const val MARKS_PER_TURN = 24

/**
 * A conversation: takes what the user says and shows, and answers; made by [dev.omniedge.OmniEdge.session].
 *
 * Whatever is pushed is encoded and prefilled as soon as it is complete; what an earlier turn prefilled is never
 * prefilled again. One coroutine or thread at a time, except for [cancel]. Calls compute, for milliseconds to seconds:
 * keep them off the main thread. An error leaves the conversation as it was before the call; of a live sound, the blocks
 * before it stay.
 */
class Session internal constructor(private val model: Model, settings: SessionSettings) : AutoCloseable {
    private val settings = settings.complete(model.manifest)
    private val images =
        ImageProcessor(model.manifest.vision.within(this.settings.context, this.settings.maxPixels))
    private val context = Context(model, this.settings)

    // Offsets at which replies begin, and at which those end that another turn follows.
    private val replyStarts = ArrayList<Int>()
    private val replyStops = ArrayList<Int>()
    private var reply: Reply? = null
    private var sound: AudioFrontEndState? = null
    private var soundBegun = false

    @Volatile
    private var cancelled = false

    /**
     * The speaker of the next reply; one of [dev.omniedge.OmniEdge.voices], null in a text-only bundle.
     *
     * @throws UsageException when set to a name that the bundle does not have.
     */
    var voice: String? = this.settings.voice
        set(name) {
            field = model.manifest.checkVoice(name ?: throw UsageException("A voice needs a name."))
        }

    /** Whether the user's turn holds anything that [reply] would answer. */
    var turnOpen: Boolean = false
        private set

    /** Whether replies are spoken. */
    val speech: Boolean get() = context.talker != null

    /** Positions of the context in use, those that wait to be prefilled included. */
    val offset: Int get() = context.offset

    /** Positions that the conversation may use. */
    val capacity: Int get() = context.capacity

    /** Starts the conversation anew, with the same settings; the random streams start again too. */
    fun reset() {
        context.reset()
        replyStarts.clear()
        replyStops.clear()
        reply = null
        sound = null
        soundBegun = false
        turnOpen = false
    }

    /**
     * Stops the reply in progress at its next step; safe from any thread.
     *
     * The conversation keeps the text written so far; the rest of the speech is dropped.
     */
    fun cancel() {
        cancelled = true
    }

    /**
     * Adds text to the user's turn.
     *
     * @throws dev.omniedge.ContextFullException it does not fit.
     */
    fun push(text: String) {
        reply = null
        endSound()
        reserve(model.tokenizer.encode(text).size)
        userTurn { context.pending.write(text) }
    }

    /**
     * Adds sound or a picture to the user's turn; it is encoded and prefilled before the call returns.
     *
     * The last piece of a live sound has `end = true`; anything else that is pushed, and [reply], end it too.
     *
     * @throws MediaException it cannot be used.
     * @throws dev.omniedge.ContextFullException it does not fit.
     */
    fun push(media: Media) {
        reply = null
        if (media !is PcmBlock) endSound()
        when (media) {
            is PcmBlock -> pushPiece(media)
            is AudioClip -> pushClip(media)
            is ImageFrame -> pushPicture(images.image(media))
            is VideoClip -> pushVideo(media)
        }
    }

    /**
     * Ends the user's turn and answers: a cold flow of [dev.omniedge.TextDelta], [dev.omniedge.AudioChunk] and finally
     * [dev.omniedge.TurnDone]. It can be collected once; a collector that leaves ends the reply where it stands.
     *
     * @param maxNewTokens text tokens at most; null: the bundle's default.
     * @param maxCodecTokens codec tokens at most (50 for each second of speech); null: the bundle's default.
     * @throws UsageException in the collector: nothing was pushed.
     * @throws dev.omniedge.ContextFullException in the collector: the turn's closing marks do not fit.
     */
    fun reply(maxNewTokens: Int? = null, maxCodecTokens: Int? = null): Flow<Event> = flow {
        val reply = begin(maxNewTokens, maxCodecTokens)
        // A flow that is still collected when the conversation continues must not write into it any more.
        for (event in reply.events { cancelled || this@Session.reply !== reply }) emit(event)
    }

    /**
     * Cuts a reply short and forgets everything behind it; the next turn follows as if the reply had ended there.
     *
     * @param offset positions that stay: within a reply or at its ends. `TurnDone.promptTokens + n` keeps the first n
     *   tokens of that reply.
     * @throws UsageException the offset is not within a reply.
     */
    fun trim(offset: Int) {
        val spans = replyStarts.zip(replyStops + this.offset) { start, stop -> start..stop }
        val number = spans.indexOfFirst { offset in it }
        if (number < 0) {
            val places = spans.joinToString { "${it.first} to ${it.last}" }.ifEmpty { "(none yet)" }
            throw UsageException("A conversation can be cut within its replies, not at $offset. They lie at $places.")
        }
        reply = null
        if (offset > context.prefilled) context.prefill()
        context.trim(offset)
        sound = null
        soundBegun = false
        turnOpen = false
        while (replyStarts.size > number + 1) replyStarts.removeAt(replyStarts.lastIndex)
        while (replyStops.size > number) replyStops.removeAt(replyStops.lastIndex)
    }

    /** Ends the conversation and gives its memory back. */
    override fun close() {
        reply = null
        context.close()
    }

    /** Opens the user's turn where it is not open, and adds to it. */
    private inline fun userTurn(add: () -> Unit) {
        var stop: Int? = null
        context.unchangedOnError {
            val pending = context.pending
            if (!turnOpen) {
                if (replyStarts.isNotEmpty()) {
                    stop = context.offset
                    pending.endTurn()
                } else if (context.offset == 0 && settings.system.isNotEmpty()) {
                    pending.system(settings.system)
                }
                pending.user()
            }
            add()
        }
        stop?.let(replyStops::add)
        turnOpen = true
    }

    /** Checks that [count] more positions fit beside what waits and the marks around a turn. */
    private fun reserve(count: Int) {
        val opening =
            if (replyStarts.isEmpty() && !turnOpen) model.tokenizer.encode(settings.system).size else 0
        context.reserve(opening + count + MARKS_PER_TURN)
    }

    private fun encode(blocks: List<AudioBlock>): Matrix = model.audioEncoder().encode(blocks.map { it.frames })

    private fun pushClip(clip: AudioClip) {
        val frontEnd = model.audioFrontEnd
        reserve(frontEnd.tokens(clip.samples.size, clip.rate))
        val embeds = encode(frontEnd.clip(clip.samples, clip.rate))
        userTurn {
            context.pending.beginSound()
            context.pending.sound(embeds)
            context.pending.endSound()
            context.prefill()
        }
    }

    private fun pushPiece(piece: PcmBlock) {
        val state = sound ?: model.audioFrontEnd.state(piece.rate)
        if (state.rate != piece.rate) {
            throw UsageException(
                "This sound came at ${state.rate} Hz, and now at ${piece.rate}. End it (end = true) before changing.",
            )
        }
        val blocks = try {
            model.audioFrontEnd.step(piece.samples, state, piece.end)
        } catch (error: MediaException) {
            if (state.ended) sound = null
            throw error
        }
        sound = state.takeUnless { piece.end }
        for (block in blocks) {
            reserve(block.tokens)
            val embeds = encode(listOf(block))
            userTurn {
                if (!soundBegun) context.pending.beginSound()
                context.pending.sound(embeds)
                context.prefill()
            }
            soundBegun = true
        }
        if (piece.end && soundBegun) {
            context.pending.endSound()
            soundBegun = false
        }
    }

    private fun endSound() {
        sound?.let { pushPiece(PcmBlock(FloatArray(0), it.rate, end = true)) }
    }

    private fun pushPicture(picture: VisionPatches) {
        val grid = picture.grid.merged(model.manifest.vision.mergeSize)
        reserve(grid.size)
        val embeds = model.visionEncoder().encode(picture)
        userTurn {
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
        userTurn {
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

    private fun begin(maxNewTokens: Int?, maxCodecTokens: Int?): Reply {
        val began = System.nanoTime()
        cancelled = false
        reply = null
        endSound()
        if (!turnOpen) throw UsageException("There is nothing to answer: push text, sound or a picture first.")
        context.unchangedOnError {
            context.pending.endTurn()
            context.pending.assistant()
            context.prefill()
        }
        turnOpen = false
        replyStarts += context.prefilled
        val turn = replyStarts.size.toLong()
        val sampler =
            Sampler(settings.sampling, settings.seed, THINKER_STREAM, turn, vocabSize = model.manifest.thinker.vocabSize)
        sampler.observe(context.tokens)
        return Reply(
            context = context,
            sampler = sampler,
            limit = maxNewTokens ?: settings.sampling.maxNewTokens,
            eos = model.manifest.text.eosTokens,
            stream = model.tokenizer.stream(),
            speech = speech(turn, maxCodecTokens),
            began = began,
        ).also { reply = it }
    }

    private fun speech(turn: Long, maxCodecTokens: Int?): Speech? {
        val talker = model.talker ?: return null
        val talkerState = context.talker ?: return null
        val sampling = settings.talkerSampling ?: return null
        val voice = voice ?: return null
        val vocoder = model.vocoder()
        return Speech(
            talker = talker,
            talkerState = talkerState,
            vocoder = vocoder,
            vocoderState = vocoder.state(voice, longArrayOf(settings.seed, turn), settings.solver, settings.chunks),
            voice = model.voiceEmbed(voice),
            positions = context.positions,
            sampling = sampling,
            limit = maxCodecTokens ?: sampling.maxNewTokens,
            seed = longArrayOf(settings.seed, TALKER_STREAM, turn),
        )
    }
}
