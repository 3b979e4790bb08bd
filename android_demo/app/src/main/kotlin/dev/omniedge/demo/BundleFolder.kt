package dev.omniedge.demo

import android.content.Context
import java.io.File

private const val MANIFEST = "bundle.json"
private const val ASSETS = "bundle"

/** Finds the bundle to talk with. ONNX Runtime maps its files, so they must lie in a folder, not in the APK. */
class BundleFolder(private val context: Context) {
    /**
     * A bundle that was pushed to the app's external folder, else the one inside the APK, copied once.
     *
     * @param onProgress share of the copy that is done, 0 to 1.
     */
    fun find(onProgress: (Float) -> Unit): Location {
        val pushed = context.getExternalFilesDir(ASSETS)
        if (pushed != null && File(pushed, MANIFEST).isFile) return Location(pushed, fresh = false)
        val folder = File(context.filesDir, ASSETS)
        val version = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime.toString()
        val mark = File(context.filesDir, "$ASSETS.version")
        if (mark.isFile && mark.readText() == version) return Location(folder, fresh = false)
        mark.delete()
        folder.deleteRecursively()
        copy(folder, onProgress)
        mark.writeText(version)
        return Location(folder, fresh = true)
    }

    /**
     * @property folder the bundle.
     * @property fresh it was copied just now, so its hashes have yet to be checked.
     */
    class Location(val folder: File, val fresh: Boolean)

    private fun copy(target: File, onProgress: (Float) -> Unit) {
        val assets = context.assets
        val names = assets.list(ASSETS).orEmpty()
        check(MANIFEST in names) { "This APK holds no bundle. Push one to ${context.getExternalFilesDir(ASSETS)}." }
        target.mkdirs()
        names.forEachIndexed { done, name ->
            assets.open("$ASSETS/$name").use { from -> File(target, name).outputStream().use(from::copyTo) }
            onProgress((done + 1f) / names.size)
        }
    }
}
