/* What the test programs share: reading a model, noise, and streams of it in odd blocks. */
#include "rtmtass.h"

#include <stdio.h>
#include <stdlib.h>

enum { LONGEST = 1000, CHANNELS = 2, MOST_OUTPUTS = CHANNELS * (RTMTASS_MAX_STEMS + 1) };

typedef struct {
    float in[CHANNELS][LONGEST], out[MOST_OUTPUTS][LONGEST];
    uint32_t seed;
} buffers;

static inline void stop_unless(int is_right, const char *what)
{
    if (is_right)
        return;
    fprintf(stderr, "failed: %s\n", what);
    exit(1);
}

static inline unsigned char *read_model(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    stop_unless(file && !fseek(file, 0, SEEK_END), path);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size);
    stop_unless(bytes && fread(bytes, 1, *size, file) == *size, path);
    fclose(file);
    return bytes;
}

/* G. Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8(14), 2003. */
static inline uint32_t draw(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

static inline rtmtass_stream *new_stream(const rtmtass_model *model, uint32_t rate,
                                         uint32_t output)
{
    rtmtass_config config = RTMTASS_CONFIG(rate, CHANNELS);
    rtmtass_stream *stream = NULL;
    config.output = output;
    stop_unless(rtmtass_new_stream(model, &config, &stream) == RTMTASS_OK, "new stream");
    return stream;
}

/* Process blocks of noise, of lengths that fit no hop; calls no function of libc. */
static inline void process_blocks(rtmtass_stream *stream, buffers *memory, int n_blocks)
{
    static const size_t lengths[] = {480, 0, 1, 255, 256, 257, LONGEST, 7};
    const float *in[CHANNELS];
    float *out[MOST_OUTPUTS];
    for (int c = 0; c < CHANNELS; c++)
        in[c] = memory->in[c];
    for (int k = 0; k < MOST_OUTPUTS; k++)
        out[k] = memory->out[k];
    for (int block = 0; block < n_blocks; block++) {
        const size_t n = lengths[block % (sizeof lengths / sizeof *lengths)];
        for (size_t i = 0; i < CHANNELS * n; i++)
            memory->in[i % CHANNELS][i / CHANNELS] =
                (float)draw(&memory->seed) / 4294967296.0f - 0.5f;
        rtmtass_process(stream, in, out, n);
    }
}
