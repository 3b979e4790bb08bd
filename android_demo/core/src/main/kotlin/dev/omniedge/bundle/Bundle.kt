package dev.omniedge.bundle

import dev.omniedge.BundleException
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.security.MessageDigest
import java.util.Locale

// Files up to this size are hashed at every load; larger ones (the weights) when asked.
private const val HASH_AT_LOAD_BYTES = 8L shl 20
private const val HASH_CHUNK_BYTES = 1 shl 20

/**
 * A bundle's folder: its manifest is read, and its files are present, whole and inside the folder.
 *
 * The hub's cache keeps a downloaded bundle as links into one folder `blobs`; such links are followed, no others are.
 *
 * @property folder the folder that holds `bundle.json`.
 * @param verify hash every file, the weights included, not only the small ones.
 * @throws BundleException the folder is no bundle, or a damaged one.
 */
class Bundle(val folder: File, verify: Boolean = false) {
    /** What the bundle says of itself. */
    val manifest: Manifest = parseManifest(read())

    init {
        manifest.usedFiles.forEach(::file)
        for ((name, entry) in manifest.files) check(name, entry, hashed = verify || entry.bytes <= HASH_AT_LOAD_BYTES)
    }

    /**
     * The bundle's file [name]; links are not followed, since a graph names its data file relative to itself.
     *
     * @throws BundleException the manifest does not list it, or it leads out of the bundle.
     */
    fun file(name: String): File {
        if (File(name).isAbsolute || name.split('/').any { it == ".." } || '\\' in name || '\u0000' in name) {
            throw BundleException("$MANIFEST_NAME names '$name', a path that leads out of the bundle. Do not trust it.")
        }
        val file = File(folder, name)
        val target = canonical(file)
        val root = canonical(folder)
        if (!target.startsWith(root) && target.parentFile != blobs(root)) {
            throw BundleException("$name links to $target, outside of the bundle $folder. Do not trust it.")
        }
        if (name !in manifest.files) {
            throw BundleException("$MANIFEST_NAME uses '$name' without listing it under 'files'. Export again.")
        }
        return file
    }

    /** SHA-256 (hex) of the manifest. */
    fun manifestSha256(): String = sha256(File(folder, MANIFEST_NAME))

    /** The text of the tokenizer's file. */
    fun tokenizerText(): String = readText(file(manifest.text.tokenizer))

    private fun read(): String = try {
        File(folder, MANIFEST_NAME).readText()
    } catch (error: FileNotFoundException) {
        throw BundleException(
            "$folder is not a bundle: it has no readable $MANIFEST_NAME. " +
                "Make one with 'omni-export CHECKPOINT --out BUNDLE' and copy the whole folder.",
            error,
        )
    } catch (error: IOException) {
        throw unreadable(File(folder, MANIFEST_NAME), error)
    }

    private fun readText(file: File): String = try {
        file.readText()
    } catch (error: IOException) {
        throw unreadable(file, error)
    }

    private fun check(name: String, entry: FileEntry, hashed: Boolean) {
        val file = file(name)
        if (!file.isFile) throw BundleException("The bundle $folder lacks $name. Copy it completely, or export again.")
        if (file.length() != entry.bytes) {
            throw BundleException(
                "$file has ${file.length()} bytes, the manifest says ${entry.bytes}. Copy the bundle again, or export again.",
            )
        }
        if (hashed && sha256(file) != entry.sha256) {
            throw BundleException("$file is damaged: its SHA-256 differs from the manifest's. Copy the bundle again.")
        }
    }

    private fun sha256(file: File): String = try {
        val digest = MessageDigest.getInstance("SHA-256")
        file.inputStream().use { input ->
            val chunk = ByteArray(HASH_CHUNK_BYTES)
            while (true) {
                val count = input.read(chunk)
                if (count < 0) break
                digest.update(chunk, 0, count)
            }
        }
        digest.digest().joinToString("") { "%02x".format(Locale.ROOT, it) }
    } catch (error: IOException) {
        throw unreadable(file, error)
    }

    private fun canonical(file: File): File = try {
        file.canonicalFile
    } catch (error: IOException) {
        throw unreadable(file, error)
    }

    /** The folder into which the files of a hub cache's snapshot link; null for any other folder. */
    private fun blobs(root: File): File? =
        generateSequence(root.parentFile) { it.parentFile }.firstOrNull { it.name == "snapshots" }?.resolveSibling("blobs")

    private fun unreadable(file: File, error: IOException) = BundleException(
        "$file cannot be read (${error.message}). Check its permissions, or copy the bundle again.",
        error,
    )
}
