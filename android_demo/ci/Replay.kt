package dev.omniedge

import dev.omniedge.audio.AudioFrontEnd
import dev.omniedge.backend.MemorySource
import dev.omniedge.bundle.Bundle
import dev.omniedge.bundle.Json
import dev.omniedge.conversation.ReplySettings
import dev.omniedge.conversation.Session
import dev.omniedge.conversation.SessionSettings
import dev.omniedge.conversation.Snapshot
import dev.omniedge.decoders.Sampling
import dev.omniedge.decoders.TextTokenizer
import dev.omniedge.kernels.CompiledOperators
import dev.omniedge.kernels.MappedMemory
import dev.omniedge.live.FRAME_SAMPLES
import dev.omniedge.live.VoiceDetector
import dev.omniedge.live.VoiceState
import dev.omniedge.numeric.Pcg64
import dev.omniedge.numeric.SeedSequence
import dev.omniedge.vision.ImageProcessor
import dev.omniedge.vocoder.ChunkOrder
import dev.omniedge.vocoder.ChunkSchedule
import dev.omniedge.vocoder.Noise
import kotlinx.coroutines.runBlocking
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.system.exitProcess

// Tolerances, absolute. Mel lies in a range of 2, samples in one of 2; normal noise has a deviation of 1.
private const val MEL = 1e-4f
private const val RESAMPLED_MEL = 5e-4f
private const val NOISE = 1e-6f
private const val SAMPLES = 1e-4f
private const val PROBABILITY = 1e-5f

// Turns of the growth check, and the KiB of memory that the second half of them may add.
private const val TURNS = 1000
private const val GROWTH = 4096

private class Mismatch(message: String) : Exception(message)

/**
 * Compares the core with what `record.py` recorded: tokens exactly, arrays within the tolerances above.
 *
 * Arguments: the bundle, the trace's folder and, where the trace was recorded with compiled operators, the folder of
 * the kernels module's libraries.
 */
fun main(args: Array<String>) {
    val replay = Replay(File(args[0]), File(args[1]), args.getOrNull(2)?.let(::File))
    val failed = replay.checks().count { (name, check) ->
        val began = System.nanoTime()
        val result = runCatching(check)
        val seconds = "%.1f s".format((System.nanoTime() - began) / 1e9)
        println("${if (result.isSuccess) "ok  " else "FAIL"} $name: ${result.getOrElse { it.toString() }}, $seconds")
        result.exceptionOrNull()?.takeUnless { it is Mismatch }?.printStackTrace()
        result.isFailure
    }
    println("${replay.checks().size - failed} passed, $failed failed")
    exitProcess(if (failed == 0) 0 else 1)
}

private class Replay(private val folder: File, private val trace: File, private val libraries: File?) {
    private val recorded = Json.parse(File(trace, "trace.json").readText()) as Map<*, *>
    private val engine = OmniEdge.load(
        path = folder,
        threads = 1,
        kernels = libraries?.let { checkNotNull(CompiledOperators.find(it)) },
        verify = true,
        memory = if (libraries == null) MemorySource.Direct else MappedMemory,
    )

    private var place: Snapshot? = null

    /** Name of a check to what it does; it returns what it saw. */
    fun checks(): List<Pair<String, () -> String>> = listOf(
        "tokens of texts" to ::texts,
        "random streams" to ::randomStreams,
        "mel" to ::mel,
        "patches" to ::patches,
        "voices" to ::voices,
    ) + maps("conversations").map { "conversation, ${it["name"]}" to { conversation(it) } } + onPhones()

    /** What needs no recording; with compiled operators and mapped memory, as on a phone. */
    private fun onPhones(): List<Pair<String, () -> String>> {
        if (libraries == null) return emptyList()
        return listOf(
            "an input that does not fit" to ::tooLong,
            "damaged bundles" to ::damagedBundles,
            "$TURNS turns" to ::growth,
        )
    }

    private fun texts(): String {
        val tokenizer = TextTokenizer.fromBundle(Bundle(folder))
        val cases = (recorded["tokens"] as List<*>).map { it as List<*> }
        for ((text, tokens) in cases) same(text.toString(), ints(tokens), tokenizer.encode(text as String))
        return "${cases.size} texts equal"
    }

    private fun randomStreams(): String {
        val random = recorded["random"] as Map<*, *>
        val seeds = (random["seeds"] as List<*>).map { (it as List<*>).map { word -> word as Long }.toLongArray() }
        var worst = 0f
        seeds.forEachIndexed { index, seed ->
            val draws = Pcg64(SeedSequence(*seed))
            val expected = buffer((random["draws"] as List<*>)[index]).asDoubleBuffer()
            while (expected.hasRemaining()) same("draw", expected.get(), draws.nextDouble())
            val noise = floats((random["noise"] as List<*>)[index])
            worst = maxOf(worst, within("noise", NOISE, noise, Noise(*seed, values = noise.size).block(3)))
        }
        return "draws equal, noise within $worst"
    }

    private fun mel(): String = maps("sounds").joinToString { sound ->
        val rate = (sound["rate"] as Long).toInt()
        val samples = floats(sound["samples"])
        val frontEnd = AudioFrontEnd(engine.manifest.audio)
        val state = frontEnd.state(rate)
        val pieces = samples.asList().chunked(rate / 10).map { it.toFloatArray() }
        val live = pieces.flatMap { frontEnd.step(it, state) } + frontEnd.step(FloatArray(0), state, end = true)
        val tolerance = if (rate == engine.manifest.audio.sampleRate) MEL else RESAMPLED_MEL
        val worst = listOf("clip" to frontEnd.clip(samples, rate), "live" to live).maxOf { (name, blocks) ->
            val expected = sound[name] as List<*>
            same("blocks", expected.size, blocks.size)
            blocks.indices.maxOf { within("mel", tolerance, floats(expected[it]), blocks[it].frames.values) }
        }
        "$rate Hz within $worst"
    }

    private fun patches(): String {
        val processor = ImageProcessor(engine.manifest.vision)
        for (picture in maps("pictures")) {
            val made = processor.image(pictures(picture["pixels"]).single())
            same("grid", ints(picture["grid"]), made.grid.run { listOf(temporal, height, width) })
            within("patches", 0f, floats(picture["patches"]), made.patches.values)
        }
        return "equal"
    }

    private fun voices(): String {
        val voices = recorded["voices"] as Map<*, *>
        val state = VoiceState()
        val probabilities = VoiceDetector(File(voices["model"] as String)).use { detector ->
            floats(voices["samples"]).asList().chunked(FRAME_SAMPLES).map { detector.step(it.toFloatArray(), state) }
        }
        val speech = probabilities.count { it > 0.5f }
        val worst = within("probability", PROBABILITY, floats(voices["probabilities"]), probabilities.toFloatArray())
        return "$speech of ${probabilities.size} frames hold speech, within $worst"
    }

    private fun conversation(recorded: Map<*, *>): String {
        var session = engine.session(sessionSettings(recorded["settings"] as Map<*, *>))
        try {
            return (recorded["turns"] as List<*>).map { it as Map<*, *> }.joinToString { turn ->
                for (said in turn["steps"] as List<*>) session = step(session, said as Map<*, *>)
                reply(session, turn)
            }
        } finally {
            session.close()
        }
    }

    private fun reply(session: Session, turn: Map<*, *>): String {
        val maxCodecTokens = (turn["codec_limit"] as Long?)?.toInt()
        val cancelAfter = (turn["cancel_after"] as Long?)?.toInt()
        val samples = ArrayList<FloatArray>()
        var texts = 0
        var done: TurnDone? = null
        runBlocking {
            session.reply(maxCodecTokens = maxCodecTokens, settings = replySettings(turn["chosen"])).collect { event ->
                when (event) {
                    is TextDelta -> if (++texts == cancelAfter) session.cancel()
                    is AudioChunk -> samples += event.samples
                    is TurnDone -> done = event
                }
            }
        }
        val reply = checkNotNull(done)
        same("prompt tokens", (turn["prompt_tokens"] as Long).toInt(), reply.promptTokens)
        same("tokens", ints(turn["tokens"]), reply.tokenIds)
        same("text", turn["text"], reply.text)
        same("codec tokens", ints(turn["codec"]), reply.codecTokens)
        same("finish", turn["finish"], reply.finishReason.name)
        val expected = floats(turn["samples"])
        val spoken = samples.flatMap { it.asList() }.toFloatArray()
        return "${reply.tokenIds.size} + ${reply.codecTokens.size} tokens equal, " +
            "samples within ${within("samples", SAMPLES, expected, spoken)}"
    }

    /** Does one thing to a conversation; returns it, or the one that takes its place. */
    private fun step(session: Session, said: Map<*, *>): Session {
        when {
            "keep_media" in said -> session.keepMedia()
            "evict" in said -> {
                val (keep, last) = ints(said["evict"])
                val evicted = session.evict(keep, last)
                same("evicted", said["evicted"]?.let(::ints), evicted?.run { listOf(turns, positions) })
            }
            "snapshot" in said -> place = session.snapshot()
            "restore" in said -> session.restore(checkNotNull(place))
            "reply" in said -> session.pushReply(said["reply"] as String)
            "save" in said -> return saved(session, said["save"] as String)
            else -> push(session, said)
        }
        return session
    }

    /** Saves a conversation, for Python to resume; returns the one that Python saved at this place. */
    private fun saved(session: Session, name: String): Session {
        val file = File(trace, "kotlin-$name")
        session.save(file)
        session.close()
        val damaged = File(trace, "damaged.omni")
        damaged.writeBytes(file.readBytes().also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() })
        refused<ConversationException> { engine.resume(damaged) }
        refused<ConversationException> { engine.resume(File(folder, "bundle.json")) }
        return engine.resume(File(trace, name))
    }

    private fun replySettings(fields: Any?): ReplySettings {
        val chosen = fields as Map<*, *>
        fun texts(name: String) = (chosen[name] as List<*>?).orEmpty().map { it as String }
        return ReplySettings(
            text = chosen["text"] as String?,
            speech = chosen["speech"] as Boolean? ?: true,
            seed = chosen["seed"] as Long?,
            stop = texts("stop"),
            unspoken = texts("unspoken"),
        )
    }

    private fun push(session: Session, said: Map<*, *>) {
        val rate = (said["rate"] as Long?)?.toInt() ?: 0
        val clip = said["clip"]?.let { AudioClip(floats(it), rate) }
        val (text, live) = said["text"] as String? to said["live"]
        when {
            text != null -> session.push(text)
            live != null -> {
                val (start, stop, piece) = listOf("start", "stop", "piece").map { (said[it] as Long).toInt() }
                floats(live).asList().subList(start, stop).chunked(piece).forEach {
                    session.push(PcmBlock(it.toFloatArray(), rate))
                }
            }
            "picture" in said -> session.push(pictures(said["picture"]).single())
            "video" in said -> session.push(VideoClip(pictures(said["video"]), said["fps"] as Double, clip))
            clip != null -> session.push(clip)
        }
    }

    private fun sessionSettings(fields: Map<*, *>): SessionSettings {
        val sampling = if (fields["greedy"] == true) Sampling.Greedy else Sampling()
        val order = if (fields["wavefront"] == true) ChunkOrder.WAVEFRONT else ChunkOrder.WINDOW
        return SessionSettings(
            voice = fields["voice"] as String?,
            context = (fields["context"] as Long?)?.toInt(),
            seed = fields["seed"] as Long,
            speech = fields["speech"] as Boolean?,
            sampling = sampling,
            talkerSampling = sampling,
            chunks = ChunkSchedule(order = order),
        )
    }

    private fun tooLong(): String = engine.session(SessionSettings(speech = false, context = 128)).use { session ->
        session.push("one")
        val before = session.offset
        refused<ContextFullException> { session.push("two ".repeat(200)) }
        same("positions", before, session.offset)
        runBlocking { session.reply(maxNewTokens = 2).collect {} }
        "refused, and the session goes on"
    }

    private fun damagedBundles(): String {
        val copy = File(trace, "damaged").also { folder.copyRecursively(it, overwrite = true) }
        val weights = File(copy, "thinker.onnx.data")
        weights.writeBytes(weights.readBytes().also { it[4096] = (it[4096] + 1).toByte() })
        refused<BundleException> { OmniEdge.load(copy) }
        weights.delete()
        refused<BundleException> { OmniEdge.load(copy) }
        val manifest = File(copy, "bundle.json")
        val text = File(folder, "bundle.json").readText()
        for ((from, to) in listOf("\"tokenizer.json\"" to "\"../tokenizer.json\"", "\"hidden_size\": " to "\"hidden_size\": -")) {
            manifest.writeText(text.replace(from, to))
            refused<BundleException> { OmniEdge.load(copy) }
        }
        copy.deleteRecursively()
        return "4 refused"
    }

    private fun growth(): String = engine.session(SessionSettings(speech = false, seed = 1)).use { session ->
        fun turns(count: Int) = runBlocking {
            repeat(count) {
                if (session.offset > session.capacity / 2) session.reset()
                session.push("one")
                session.reply(maxNewTokens = 2).collect {}
            }
        }
        turns(TURNS / 2)
        val before = memoryKib()
        turns(TURNS / 2)
        val grown = memoryKib() - before
        if (grown > GROWTH) throw Mismatch("memory grew by $grown KiB in ${TURNS / 2} turns")
        "$grown KiB more after the second half"
    }

    /** Native memory and objects; check.py makes the whole heap resident, whatever lies in it. */
    private fun memoryKib(): Long {
        System.gc()
        val objects = Runtime.getRuntime().run { totalMemory() - freeMemory() }
        val resident = File("/proc/self/status").readLines().first { it.startsWith("VmRSS") }
        return resident.filter(Char::isDigit).toLong() + objects / 1024
    }

    private fun maps(name: String) = (recorded[name] as List<*>).map { it as Map<*, *> }

    private fun ints(values: Any?): List<Int> = (values as List<*>).map { (it as Long).toInt() }

    private fun shape(array: Any?): List<Int> = ints((array as Map<*, *>)["shape"])

    private fun buffer(array: Any?): ByteBuffer =
        ByteBuffer.wrap(File(trace, (array as Map<*, *>)["file"] as String).readBytes()).order(ByteOrder.LITTLE_ENDIAN)

    private fun floats(array: Any?): FloatArray = buffer(array).asFloatBuffer().let { FloatArray(it.remaining()).also(it::get) }

    /** The pictures of an array `[height, width, 3]` or `[n, height, width, 3]`. */
    private fun pictures(array: Any?): List<ImageFrame> {
        val (height, width) = shape(array).dropLast(1).takeLast(2)
        return buffer(array).array().asList().chunked(height * width * 3).map { ImageFrame(width, height, it.toByteArray()) }
    }

    private fun same(what: String, expected: Any?, actual: Any?) {
        if (expected != actual) throw Mismatch("$what: expected $expected, got $actual")
    }

    /** The largest difference. */
    private fun within(what: String, tolerance: Float, expected: FloatArray, actual: FloatArray): Float {
        same("$what, size", expected.size, actual.size)
        val worst = expected.indices.maxOfOrNull { abs(expected[it] - actual[it]) } ?: 0f
        if (!(worst <= tolerance)) throw Mismatch("$what differ by $worst; the tolerance is $tolerance")
        return worst
    }

    private inline fun <reified E : Exception> refused(action: () -> Unit) {
        try {
            action()
        } catch (error: Exception) {
            if (error !is E) throw error
            return
        }
        throw Mismatch("nothing was refused")
    }
}
