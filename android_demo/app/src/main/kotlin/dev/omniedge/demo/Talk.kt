package dev.omniedge.demo

import android.content.Context
import android.os.Handler
import android.os.Looper
import dev.omniedge.AudioChunk
import dev.omniedge.ImageFrame
import dev.omniedge.OmniEdge
import dev.omniedge.PcmBlock
import dev.omniedge.TextDelta
import dev.omniedge.TurnDone
import dev.omniedge.conversation.Session
import dev.omniedge.conversation.SessionSettings
import dev.omniedge.kernels.CompiledOperators
import dev.omniedge.kernels.MappedMemory
import dev.omniedge.live.VoiceDetector
import kotlinx.coroutines.runBlocking
import java.io.File
import java.io.IOException
import java.util.concurrent.Executors

// Shares of the context: in use, the oldest turns leave; in use afterwards.
private const val FULL = 0.75f
private const val KEPT = 0.5f

// Pieces that come before a turn is noticed, and belong to it.
private const val PIECES_BEFORE_TURN = 4

/**
 * The conversation behind the screen. Its functions return at once and are called on the main thread; the model computes
 * on a thread of its own, and [onChange] is called on the main thread again.
 */
class Talk(private val context: Context) {
    private val main = Handler(Looper.getMainLooper())
    private val worker = Executors.newSingleThreadExecutor { Thread(it, "talk") }
    private var microphone: Microphone? = null

    @Volatile
    private var session: Session? = null

    // Finds speech in hands-free mode; null: the APK holds no model for it.
    @Volatile
    private var voiceDetector: VoiceDetector? = null

    @Volatile
    private var speaker: Speaker? = null

    // Counts the wishes to stop, and numbers the replies: one that began before the last wish ends.
    @Volatile
    private var stops = 0

    /** What the screen shows. */
    var state = TalkState()
        private set

    /** Called whenever [state] has changed. */
    var onChange: (TalkState) -> Unit = {}

    init {
        worker.execute { guarded { load() } }
    }

    /** The user begins to speak into the microphone: a reply stops. */
    fun startTalking() {
        stop()
        if (!openMicrophone(echo = false) { piece -> worker.execute { guarded { push(piece) } } }) return
        change { copy(phase = Phase.LISTENING) }
    }

    /** The user has spoken. */
    fun stopTalking() {
        if (microphone == null || state.handsFree) return
        closeMicrophone()
        answer("[sound]")
    }

    /** Opens or closes the microphone for good; turns are found by their voice, or else by their loudness. */
    fun handsFree(on: Boolean) {
        if (on == state.handsFree) return
        closeMicrophone()
        // The service comes first: behind another app it is what allows the microphone.
        TalkService.set(context, on)
        if (on && !openMicrophone(echo = true, HandsFree()::step)) return TalkService.set(context, on = false)
        change { copy(handsFree = on, phase = if (phase == Phase.LISTENING) Phase.READY else phase) }
    }

    /** Text of the user, who may have shown pictures before it. */
    fun write(text: String) {
        stop()
        worker.execute { guarded { session?.push(text) } }
        answer(text)
    }

    /** A picture of the user; the question follows. */
    fun show(read: () -> ImageFrame?) {
        stop()
        worker.execute {
            guarded {
                val picture = read() ?: return@guarded change { copy(message = context.getString(R.string.no_picture)) }
                session?.push(picture)
                change { copy(transcript = "$transcript\n[picture]") }
            }
        }
    }

    /** The speaker of the next reply. */
    fun voice(name: String) = worker.execute {
        guarded {
            session?.voice = name
            change { copy(voice = name) }
        }
    }

    /** Interrupts the reply: the rest of it is neither computed nor heard. */
    fun stop() {
        stops++
        session?.cancel()
        speaker?.stop(stops)
    }

    /** A new conversation. */
    fun reset() {
        stop()
        worker.execute {
            guarded {
                session?.reset()
                change { copy(transcript = "", message = "") }
            }
        }
    }

    private fun load() {
        val bundle = BundleFolder(context).find { share -> change { copy(progress = share) } }
        val operators = CompiledOperators.find(File(context.applicationInfo.nativeLibraryDir))
        val loaded = OmniEdge.load(bundle.folder, kernels = operators, verify = bundle.fresh, memory = MappedMemory)
        voiceDetector = Voices.load(context)
        val opened = loaded.session(SessionSettings())
        opened.keepMedia()
        session = opened
        val focus = AudioFocus(context, ::stop)
        loaded.manifest.token2wav?.let { speaker = Speaker(it.sampleRate, focus).apply { stop(stops) } }
        change { copy(phase = Phase.READY, voices = loaded.voices, voice = opened.voice, figures = Figures.line(null)) }
    }

    private fun push(piece: FloatArray) {
        session?.push(PcmBlock(piece, MICROPHONE_RATE))
    }

    private fun answer(said: String) {
        val begun = stops
        worker.execute {
            change { copy(phase = Phase.ANSWERING, message = "", transcript = "$transcript\n— $said\n") }
            guarded { reply(begun) }
            change { copy(phase = if (microphone != null && !handsFree) Phase.LISTENING else Phase.READY) }
        }
    }

    private fun reply(begun: Int): Unit = runBlocking {
        val session = session ?: return@runBlocking
        makeRoom(session)
        session.reply().collect { event ->
            if (begun != stops) session.cancel()
            when (event) {
                is TextDelta -> if (event.text.isNotEmpty()) change { copy(transcript = transcript + event.text) }
                is AudioChunk -> speaker?.play(begun, event.samples)
                is TurnDone -> change { copy(figures = Figures.line(event.metrics)) }
            }
        }
        speaker?.finish(begun)
    }

    /** The oldest turns leave a context that is nearly full. */
    private fun makeRoom(session: Session) {
        if (session.offset > FULL * session.capacity) session.evict((KEPT * session.capacity).toInt(), session.capacity)
    }

    private fun openMicrophone(echo: Boolean, onPiece: (FloatArray) -> Unit): Boolean {
        if (session == null) return false
        try {
            microphone = Microphone(echo, onPiece) { main.post(::microphoneLost) }
        } catch (error: RuntimeException) {
            change { copy(message = error.message.orEmpty()) }
        }
        return microphone != null
    }

    private fun microphoneLost() {
        if (state.handsFree) handsFree(on = false) else stopTalking()
        change { copy(message = context.getString(R.string.microphone_lost)) }
    }

    private fun closeMicrophone() {
        microphone?.close()
        microphone = null
    }

    /** The microphone's thread in hands-free mode. */
    private inner class HandsFree {
        private val detector = TurnDetector(voiceDetector?.let { Voices(it)::step } ?: Loudness()::step)
        private val before = ArrayDeque<FloatArray>()

        fun step(piece: FloatArray) {
            when (detector.step(piece)) {
                TurnDetector.Sound.SILENCE -> {
                    before += piece
                    if (before.size > PIECES_BEFORE_TURN) before.removeFirst()
                }
                TurnDetector.Sound.TURN_START -> {
                    main.post { stop() }
                    hear(before + piece)
                    before.clear()
                    change { copy(phase = Phase.LISTENING) }
                }
                TurnDetector.Sound.TURN -> hear(listOf(piece))
                TurnDetector.Sound.TURN_END -> main.post { answer("[sound]") }
            }
        }

        private fun hear(pieces: List<FloatArray>) = worker.execute { guarded { pieces.forEach(::push) } }
    }

    /** Runs [action]; an error is shown. Android's audio and documents raise many kinds of RuntimeException. */
    private fun guarded(action: () -> Unit) {
        try {
            action()
        } catch (error: IOException) {
            failed(error)
        } catch (error: RuntimeException) {
            failed(error)
        }
    }

    private fun failed(error: Exception) = change {
        copy(message = error.message.orEmpty(), phase = if (session == null) Phase.FAILED else phase)
    }

    private fun change(change: TalkState.() -> TalkState) {
        main.post {
            state = state.change()
            onChange(state)
        }
    }
}
