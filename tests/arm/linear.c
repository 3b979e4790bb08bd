/* Linear layers of many shapes, with weights and activations from a fixed random stream: all results, to stdout. */
#include <stdio.h>
#include <stdlib.h>

#include "linear.h"

static uint32_t state = 1;

static uint32_t draw(void) { return state = state * 1664525u + 1013904223u, state >> 8; }

static void *allocate(int64_t count, size_t size) {
    void *memory = aligned_alloc(64, ((size_t)count * size + 127) / 64 * 64);
    if (!memory) exit(1);
    return memory;
}

static void *random_bytes(int64_t count) {
    uint8_t *bytes = allocate(count, 1);
    for (int64_t i = 0; i < count; i++) bytes[i] = (uint8_t)draw();
    return bytes;
}

static void multiply(int64_t m, int64_t n, int64_t k, int bits, int64_t block, int float16_scales) {
    Linear run = linear_plan(m, n, k, bits, block);
    const int64_t scales = n * run.shape.blocks;
    float *x = allocate(m * k, sizeof(float)), *wide = allocate(scales, sizeof(float));
    uint16_t *narrow = allocate(scales, sizeof(uint16_t));
    for (int64_t i = 0; i < m * k; i++) x[i] = (float)draw() / (1 << 22) - 2;
    for (int64_t i = 0; i < scales; i++) {
        wide[i] = 0.01f + (float)draw() / (1 << 30);
        narrow[i] = (uint16_t)(0x2000 | (draw() & 0x3ff)); /* 0.008 to 0.016 */
    }
    run.x = x;
    run.b = random_bytes(n * run.shape.row_bytes);
    run.scales = float16_scales ? (void *)narrow : (void *)wide;
    run.float16_scales = float16_scales;
    run.zero_points = bits == 4 && float16_scales ? random_bytes(n * run.shape.zero_bytes) : NULL;
    run.y = allocate(m * n, sizeof(float));
    void *scratch = allocate((int64_t)linear_scratch_bytes(&run), 1);
    linear_set_scratch(&run, scratch);
    for (int64_t task = 0; task < m * run.tiling.pieces; task++) linear_quantize_task(&run, (size_t)task);
    for (int64_t task = 0; task < linear_tasks(&run); task++) linear_multiply_task(&run, (size_t)task);
    fwrite(run.y, sizeof(float), (size_t)(m * n), stdout);
    free(x), free(wide), free(narrow), free((void *)run.b), free((void *)run.zero_points), free(run.y), free(scratch);
}

int main(void) {
    const int64_t shapes[][2] = {{1, 32}, {7, 96}, {33, 200}, {130, 640}, {37, 1120}};
    const int64_t rows[] = {1, 8, 9, 10, 17, 70}, blocks[] = {32, 64, 128, 256};
    for (int shape = 0; shape < 5; shape++)
        for (int row = 0; row < 6; row++)
            for (int block = 0; block < 4; block++)
                for (int bits = 4; bits <= 8; bits += 4)
                    for (int float16_scales = 0; float16_scales < 2; float16_scales++)
                        multiply(rows[row], shapes[shape][0], shapes[shape][1], bits, blocks[block], float16_scales);
    return 0;
}
