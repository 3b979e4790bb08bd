package dev.omniedge.demo

import dev.omniedge.Metrics
import java.io.File
import java.util.Locale

/** Memory and latency as the screen shows them. */
object Figures {
    /** Memory in use, and where the time of the last reply went. */
    fun line(metrics: Metrics?): String = listOfNotNull(
        "memory ${residentMegabytes()} MB",
        metrics?.let { "first word %.1f s".format(Locale.ROOT, it.ttft) },
        metrics?.ttfa?.let { "first sound %.1f s".format(Locale.ROOT, it) },
        metrics?.rtf?.let { "%.2f s for each second of speech".format(Locale.ROOT, it) },
    ).joinToString(", ")

    private fun residentMegabytes(): Long = File("/proc/self/status").useLines { lines ->
        lines.firstOrNull { it.startsWith("VmRSS") }?.filter(Char::isDigit)?.toLong()?.div(1000) ?: 0L
    }
}
