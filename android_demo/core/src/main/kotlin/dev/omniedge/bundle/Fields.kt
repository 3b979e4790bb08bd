package dev.omniedge.bundle

import dev.omniedge.BundleException

/**
 * The fields of one object of `bundle.json`. Each reader checks type and range, and names the field that is wrong.
 *
 * @param where the object's place in the file.
 */
internal class Fields(private val where: String, value: Any?) {
    private val fields: Map<*, *> = value as? Map<*, *> ?: throw BundleException("$MANIFEST_NAME: $where is no object.")
    private val read = HashSet<String>()

    /** Reads all fields by [build]; a field that nothing reads is an error. */
    fun <T> whole(build: Fields.() -> T): T {
        val built = build()
        val unknown = fields.keys.filterNot { it in read }
        if (unknown.isNotEmpty()) throw BundleException("$MANIFEST_NAME: $where has unknown fields $unknown.")
        return built
    }

    /** Fields that this reader has no use for. */
    fun ignore(vararg names: String) {
        read += names
    }

    fun text(name: String): String = typed(name)

    fun textOrNull(name: String): String? = optional(name)?.let { text(name) }

    /** An integer from [from] to [to]. */
    fun int(name: String, from: Int = 1, to: Int = Int.MAX_VALUE): Int = long(name, from.toLong(), to.toLong()).toInt()

    fun long(name: String, from: Long, to: Long): Long {
        val number = typed<Long>(name)
        if (number !in from..to) wrong(name)
        return number
    }

    /** A token or a row: 0 or more and below [limit]. */
    fun id(name: String, limit: Int = Int.MAX_VALUE): Int = int(name, from = 0, to = limit - 1)

    /** A finite number above 0, or 0 as well. */
    fun number(name: String, orZero: Boolean = false): Double {
        val number = typed<Number>(name).toDouble()
        if (!(number > 0 || (orZero && number == 0.0)) || number.isInfinite()) wrong(name)
        return number
    }

    fun ints(name: String, from: Int = 0): List<Int> = list<Long>(name).map {
        if (it < from || it > Int.MAX_VALUE) wrong(name)
        it.toInt()
    }

    /** Finite numbers of 0 or more. */
    fun numbers(name: String, count: Int): List<Double> {
        val numbers = list<Number>(name).map { it.toDouble() }
        if (numbers.size != count || numbers.any { !(it >= 0 && it < Double.POSITIVE_INFINITY) }) wrong(name)
        return numbers
    }

    fun texts(name: String): Map<String, String> = map(name) { _, value -> value as? String ?: wrong(name) }

    /** An object of objects. */
    fun <T> sections(name: String, build: Fields.() -> T): Map<String, T> =
        map(name) { key, value -> Fields("$where.$name.$key", value).whole(build) }

    fun <T> section(name: String, build: Fields.() -> T): T = Fields("$where.$name", required(name)).whole(build)

    fun <T> sectionOrNull(name: String, build: Fields.() -> T): T? = optional(name)?.let { section(name, build) }

    /** @throws BundleException always, naming the field. */
    fun wrong(name: String): Nothing =
        throw BundleException("$MANIFEST_NAME: $where.$name has a value that cannot be. Export the bundle again.")

    private fun <T> map(name: String, convert: (String, Any?) -> T): Map<String, T> =
        typed<Map<*, *>>(name).entries.associate { (key, value) -> key as String to convert(key, value) }

    private inline fun <reified T> list(name: String): List<T> =
        typed<List<*>>(name).map { it as? T ?: wrong(name) }

    private inline fun <reified T> typed(name: String): T = required(name) as? T ?: wrong(name)

    private fun optional(name: String): Any? {
        read += name
        return fields[name]
    }

    private fun required(name: String): Any? {
        if (name !in fields) throw BundleException("$MANIFEST_NAME: $where lacks '$name'. Export the bundle again.")
        return optional(name)
    }
}
