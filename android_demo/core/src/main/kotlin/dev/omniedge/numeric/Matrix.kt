package dev.omniedge.numeric

/**
 * A row-major matrix: embeds, states and mel, one position or frame per row.
 *
 * @property rows number of rows.
 * @property columns number of columns.
 * @property values float32 `[rows * columns]`.
 */
class Matrix(val rows: Int, val columns: Int, val values: FloatArray = FloatArray(rows * columns)) {
    init {
        require(values.size == rows * columns) { "$rows x $columns values are not ${values.size}" }
    }

    operator fun get(row: Int, column: Int): Float = values[row * columns + column]

    operator fun set(row: Int, column: Int, value: Float) {
        values[row * columns + column] = value
    }

    /** A copy of one row, float32 `[columns]`. */
    fun row(index: Int): FloatArray = values.copyOfRange(index * columns, (index + 1) * columns)

    /** A copy of the rows from [from] to [to], the latter excluded. */
    fun rows(from: Int, to: Int): Matrix =
        if (from == 0 && to == rows) this else Matrix(to - from, columns, values.copyOfRange(from * columns, to * columns))

    /** A copy of the columns from [from] to [to], the latter excluded. */
    fun columns(from: Int, to: Int): Matrix {
        val cut = Matrix(rows, to - from)
        for (row in 0 until rows) {
            values.copyInto(cut.values, row * cut.columns, row * columns + from, row * columns + to)
        }
        return cut
    }

    /** The matrix `[columns, rows]`. */
    fun transposed(): Matrix {
        val turned = Matrix(columns, rows)
        for (row in 0 until rows) for (column in 0 until columns) turned[column, row] = this[row, column]
        return turned
    }

    companion object {
        /** All rows of [parts], one part after the other; each has [columns] columns. */
        fun concatenate(parts: List<Matrix>, columns: Int): Matrix {
            parts.singleOrNull()?.let { return it }
            val whole = Matrix(parts.sumOf { it.rows }, columns)
            var end = 0
            for (part in parts) {
                part.values.copyInto(whole.values, end)
                end += part.values.size
            }
            return whole
        }
    }
}
