package dev.omniedge.conversation

import dev.omniedge.ConversationException
import dev.omniedge.ResourceException
import dev.omniedge.UsageException
import dev.omniedge.bundle.Json
import dev.omniedge.decoders.PositionIds
import dev.omniedge.numeric.Matrix
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.security.MessageDigest

private const val FORMAT_VERSION = 1

// Magic, format version, bytes of the header, bytes of the whole file.
private const val PREFIX_BYTES = 24
private const val DIGEST_BYTES = 32
private const val READ_BYTES = 1 shl 20
private val MAGIC = "OMNICONV".toByteArray()
private val SIZES = mapOf(FLOAT to 4, INTEGER to 8, BYTE to 1)

/**
 * Writes a conversation: the whole file, or none.
 *
 * @throws ResourceException the disk is full.
 * @throws UsageException the file cannot be written.
 */
internal fun writeConversation(path: File, conversation: SavedConversation, arrays: List<SavedArray>) {
    val header = conversation.header(arrays).toByteArray()
    val total = PREFIX_BYTES + header.size + arrays.sumOf { it.bytes } + DIGEST_BYTES
    val prefix = SavedArray.littleEndian(PREFIX_BYTES)
    prefix.put(MAGIC).putInt(FORMAT_VERSION).putInt(header.size).putLong(total)
    prefix.rewind()
    val partial = File("$path.partial")
    try {
        FileOutputStream(partial).use { output ->
            val digest = MessageDigest.getInstance("SHA-256")
            for (piece in listOf(prefix, ByteBuffer.wrap(header)) + arrays.flatMap { it.pieces }) {
                digest.update(piece.duplicate())
                while (piece.hasRemaining()) output.channel.write(piece)
            }
            output.write(digest.digest())
            output.fd.sync()
        }
        if (!partial.renameTo(path)) throw IOException("it cannot be replaced")
    } catch (error: IOException) {
        val folder = path.absoluteFile.parentFile
        if (folder.isDirectory && folder.usableSpace < total) {
            throw ResourceException(
                "The disk is full: the conversation needs ${total / 1_000_000} MB in $folder. Free some space, or save " +
                    "elsewhere.",
                error,
            )
        }
        throw UsageException("$path cannot be written (${error.message}). Choose another name.")
    } finally {
        // Where it was not renamed.
        partial.delete()
    }
}

/**
 * A conversation in a file, checked and ready to be read; docs/bundle.md has the format.
 *
 * @param bundle SHA-256 (hex) of the `bundle.json` that it has to belong to.
 * @throws ConversationException the file is missing, no conversation, damaged, of another format version or another
 *   bundle.
 */
internal class SavedFile(private val path: File, bundle: String) {
    private class Place(val dtype: String, val shape: List<Int>, val start: Long)

    private val places = HashMap<String, Place>()

    /** Everything that is no array. */
    val conversation: SavedConversation

    init {
        val header = open { channel ->
            val size = checkPrefix(channel)
            checkDigest(channel)
            ByteArray(size).also { read(channel, ByteBuffer.wrap(it), PREFIX_BYTES.toLong()) }
        }
        conversation = try {
            val fields = Json.parse(String(header)) as Map<*, *>
            layOut(fields["arrays"] as List<*>, PREFIX_BYTES + header.size.toLong())
            SavedConversation.parse(fields["conversation"] as Map<*, *>)
        } catch (error: ConversationException) {
            throw error
        } catch (error: RuntimeException) {
            throw unusable("its header is not valid (${error.message})")
        }
        if (conversation.bundle != bundle) {
            throw ConversationException(
                "The conversation $path was held with another bundle. Load the bundle that it was saved with.",
            )
        }
    }

    /** The error of a file that is whole but cannot be continued. */
    fun unusable(reason: String) =
        ConversationException("The conversation $path cannot be used: $reason. Start a new one.")

    /** Length of an array along its first axis. */
    fun count(name: String): Int = places[name]?.shape?.firstOrNull() ?: throw unusable("it lacks the array $name")

    /**
     * Reads an array into the memory of [target], whose shape and dtype it must have.
     *
     * @throws ConversationException it has another one, or values that are no numbers.
     */
    fun read(target: SavedArray) {
        val place = places[target.name] ?: throw unusable("it lacks the array ${target.name}")
        if (place.shape != target.shape || place.dtype != target.dtype) {
            throw unusable(
                "the array ${target.name} is ${place.dtype} ${place.shape}, not ${target.dtype} ${target.shape}",
            )
        }
        open { channel ->
            var start = place.start
            for (piece in target.pieces) {
                read(channel, piece.duplicate(), start)
                start += piece.remaining()
            }
        }
        if (target.dtype != FLOAT) return
        for (piece in target.pieces) {
            val values = piece.duplicate().order(piece.order()).asFloatBuffer()
            while (values.hasRemaining()) {
                if (!values.get().isFinite()) throw unusable("the array ${target.name} holds values that are no numbers")
            }
        }
    }

    /** An array int64 `[n]` of values in [range]. */
    fun integers(name: String, range: IntRange, count: Int): IntArray = integers(name, range, listOf(count))

    /** An array int64 `[3, n]` of ids in [range]. */
    fun positions(name: String, range: IntRange, count: Int): PositionIds {
        val ids = integers(name, range, listOf(3, count))
        return PositionIds(
            ids.copyOfRange(0, count),
            ids.copyOfRange(count, 2 * count),
            ids.copyOfRange(2 * count, 3 * count),
        )
    }

    /** An array float32 `[rows, columns]`. */
    fun matrix(name: String, rows: Int, columns: Int): Matrix {
        val matrix = Matrix(rows, columns)
        val array = SavedArray.floats(name, matrix)
        read(array)
        array.pieces.single().asFloatBuffer().get(matrix.values)
        return matrix
    }

    private fun integers(name: String, range: IntRange, shape: List<Int>): IntArray {
        val buffer = SavedArray.littleEndian(shape.fold(Long.SIZE_BYTES, Int::times))
        read(SavedArray(name, INTEGER, shape, listOf(buffer)))
        val values = LongArray(buffer.capacity() / Long.SIZE_BYTES).also { buffer.asLongBuffer().get(it) }
        if (values.any { it < range.first || it > range.last }) {
            throw unusable("the array $name holds values outside of ${range.first} to ${range.last}")
        }
        return IntArray(values.size) { values[it].toInt() }
    }

    /** The header's length. */
    private fun checkPrefix(channel: FileChannel): Int {
        val size = channel.size()
        val prefix = SavedArray.littleEndian(PREFIX_BYTES)
        if (size >= PREFIX_BYTES) read(channel, prefix.duplicate(), 0)
        if (!MAGIC.contentEquals(prefix.array().copyOf(MAGIC.size))) {
            throw ConversationException("$path is not a saved conversation. Name a file that omni-edge saved.")
        }
        prefix.position(MAGIC.size)
        val version = prefix.getInt()
        if (version != FORMAT_VERSION) {
            throw ConversationException(
                "The conversation $path has format version $version; this version reads $FORMAT_VERSION. Open it with " +
                    "the version that saved it.",
            )
        }
        val header = prefix.getInt()
        val total = prefix.getLong()
        if (size != total || header !in 0..size - PREFIX_BYTES - DIGEST_BYTES) {
            throw ConversationException(
                "The conversation $path has $size bytes instead of $total. Copy it again, completely.",
            )
        }
        return header
    }

    private fun checkDigest(channel: FileChannel) {
        val digest = MessageDigest.getInstance("SHA-256")
        val end = channel.size() - DIGEST_BYTES
        val buffer = ByteBuffer.allocate(READ_BYTES)
        var start = 0L
        while (start < end) {
            buffer.clear()
            buffer.limit(minOf(READ_BYTES.toLong(), end - start).toInt())
            read(channel, buffer, start)
            buffer.flip()
            start += buffer.limit()
            digest.update(buffer)
        }
        val stored = ByteArray(DIGEST_BYTES).also { read(channel, ByteBuffer.wrap(it), end) }
        if (!digest.digest().contentEquals(stored)) {
            throw ConversationException(
                "The conversation $path is damaged: its SHA-256 differs. Copy it again, or start a new one.",
            )
        }
    }

    /** Where each array lies. */
    private fun layOut(entries: List<*>, first: Long) {
        var start = first
        for (entry in entries.map { it as Map<*, *> }) {
            val name = entry["name"] as String
            val shape = ints(entry["shape"])
            val size = SIZES[entry["dtype"]]
            if (size == null || shape.any { it < 0 }) {
                throw unusable("the array $name has dtype ${entry["dtype"]} and shape $shape")
            }
            places[name] = Place(entry["dtype"] as String, shape, start)
            val bytes = shape.fold(size.toDouble(), Double::times)
            if (bytes > path.length()) throw unusable("the array $name is larger than the file")
            start += bytes.toLong()
        }
        if (start != path.length() - DIGEST_BYTES || places.size != entries.size) {
            throw unusable("its arrays do not fill it")
        }
    }

    private fun <T> open(use: (FileChannel) -> T): T = try {
        RandomAccessFile(path, "r").use { use(it.channel) }
    } catch (error: IOException) {
        throw ConversationException("$path cannot be read (${error.message}). Check the name.", error)
    }

    private fun read(channel: FileChannel, target: ByteBuffer, start: Long) {
        var place = start
        while (target.hasRemaining()) {
            val count = channel.read(target, place)
            if (count < 0) throw IOException("it ends too early")
            place += count
        }
    }
}
