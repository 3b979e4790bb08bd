package dev.omniedge.conversation

import dev.omniedge.bundle.Json
import dev.omniedge.decoders.Positions
import dev.omniedge.decoders.Sampling
import dev.omniedge.vocoder.ChunkOrder
import dev.omniedge.vocoder.ChunkSchedule
import dev.omniedge.vocoder.SolverMethod
import dev.omniedge.vocoder.SolverSettings
import java.util.Locale

/**
 * Everything in the file of a conversation that is no array; docs/bundle.md has the fields.
 *
 * @property bundle SHA-256 (hex) of the bundle's `bundle.json`.
 * @property settings those of the conversation, defaults filled in.
 * @property text pushed text that is not tokenized yet.
 * @property positions the ids behind all other positions.
 */
internal class SavedConversation(
    val bundle: String,
    val settings: SessionSettings,
    val turns: Turns,
    val text: String,
    val positions: Positions,
) {
    /** The header of a file with these arrays, as JSON. */
    fun header(arrays: List<SavedArray>): String = Json.write(
        mapOf(
            "conversation" to mapOf(
                "bundle" to bundle,
                "settings" to settings.fields(),
                "reply_starts" to turns.replyStarts,
                "reply_stops" to turns.replyStops,
                "turn_open" to turns.open,
                "text" to text,
                "next_id" to positions.next,
                "highest_id" to positions.highest,
                "replies_evicted" to turns.evicted,
            ),
            "arrays" to arrays.map { mapOf("name" to it.name, "dtype" to it.dtype, "shape" to it.shape) },
        ),
    )

    companion object {
        /** Reads the header's `conversation`; fails with RuntimeException where a field is missing or another's kind. */
        fun parse(fields: Map<*, *>): SavedConversation {
            val turns = Turns(
                replyStarts = ints(fields["reply_starts"]),
                replyStops = ints(fields["reply_stops"]),
                open = fields["turn_open"] as Boolean,
                evicted = int(fields["replies_evicted"] ?: 0L),
            )
            val unfinished = if (turns.replyStarts.isNotEmpty() && !turns.open) 1 else 0
            require(turns.replyStarts.size - turns.replyStops.size == unfinished) { "its turns do not follow each other" }
            require(turns.evicted >= 0) { "it counts fewer than no replies" }
            val positions = Positions(int(fields["next_id"]), int(fields["highest_id"]))
            require(positions.next >= 0 && positions.highest >= -1) { "its position ids are out of range" }
            val settings = settings(fields["settings"] as Map<*, *>)
            return SavedConversation(fields["bundle"] as String, settings, turns, fields["text"] as String, positions)
        }
    }
}

private fun SessionSettings.fields() = mapOf(
    "voice" to voice,
    "system" to system,
    "context" to context,
    "seed" to seed,
    "speech" to speech,
    "sampling" to sampling.fields(),
    "talker_sampling" to talkerSampling.takeIf { speech == true }?.fields(),
    "solver" to solver.run {
        mapOf("method" to method.lower(), "evaluations" to evaluations, "guidance" to guidance, "sway" to sway)
    },
    "chunks" to chunks.run {
        mapOf("look_ahead_blocks" to lookAheadBlocks, "chunk_blocks" to chunkBlocks, "order" to order.lower())
    },
    "max_pixels" to maxPixels,
)

private fun settings(fields: Map<*, *>): SessionSettings {
    val solver = fields["solver"] as Map<*, *>
    val chunks = fields["chunks"] as Map<*, *>
    return SessionSettings(
        voice = fields["voice"] as String?,
        system = fields["system"] as String,
        context = int(fields["context"]),
        seed = fields["seed"] as Long,
        speech = fields["speech"] as Boolean,
        sampling = sampling(fields["sampling"] as Map<*, *>),
        talkerSampling = (fields["talker_sampling"] as Map<*, *>?)?.let(::sampling) ?: Sampling(),
        solver = SolverSettings(
            method = SolverMethod.values().single { it.lower() == solver["method"] },
            evaluations = int(solver["evaluations"]),
            guidance = number(solver["guidance"]),
            sway = number(solver["sway"]),
        ),
        chunks = ChunkSchedule(
            lookAheadBlocks = int(chunks["look_ahead_blocks"]),
            chunkBlocks = ints(chunks["chunk_blocks"]),
            order = ChunkOrder.values().single { it.lower() == chunks["order"] },
        ),
        maxPixels = fields["max_pixels"]?.let(::int),
    )
}

private fun Sampling.fields() = mapOf(
    "temperature" to temperature,
    "top_k" to topK,
    "top_p" to topP,
    "repetition_penalty" to repetitionPenalty,
)

private fun sampling(fields: Map<*, *>) = Sampling(
    temperature = number(fields["temperature"]),
    topK = int(fields["top_k"]),
    topP = number(fields["top_p"]),
    repetitionPenalty = number(fields["repetition_penalty"]),
)

private fun Enum<*>.lower() = name.lowercase(Locale.ROOT)

private fun number(value: Any?): Double = (value as Number).toDouble()

private fun int(value: Any?): Int =
    (value as Long).also { require(it.toInt().toLong() == it) { "$it is out of range" } }.toInt()

/** A list of the header as integers; fails with RuntimeException where it is none. */
internal fun ints(value: Any?): List<Int> = (value as List<*>).map(::int)
