/* Opens damaged models, and runs those that are taken.
 *
 *     fuzz MODEL.rtm VARIANT N
 *
 * Cuts and flipped bits, then header words and instructions that are changed under a CRC that
 * is right again, so that what comes after the CRC is reached.
 */
#include "program.h"
#include "rtmtass_words.h"

#include <string.h>

static uint32_t crc_table[256];

static void fill_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (0xedb88320u & (0u - (value & 1)));
        crc_table[byte] = value;
    }
}

static void seal(unsigned char *bytes, size_t size)
{
    memset(bytes + 8 * RTMTASS_WORD_CRC, 0, 8);
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ bytes[i]) & 255];
    crc = ~crc;
    memcpy(bytes + 8 * RTMTASS_WORD_CRC, &crc, sizeof crc);
}

static void change_word(unsigned char *bytes, size_t word, uint32_t *seed)
{
    int64_t value;
    memcpy(&value, bytes + 8 * word, 8);
    const uint32_t kind = draw(seed) % 9;
    const int64_t values[] = {
        0, 1, -1, INT64_MAX, value - 1, (int64_t)((uint64_t)value + 1), value / 2,
        (int64_t)((uint64_t)value << 1), value ^ INT64_C(1) << draw(seed) % 40,
    };
    memcpy(bytes + 8 * word, &values[kind], 8);
}

/* Damage a copy; return its length. */
static size_t damage(unsigned char *bytes, size_t size, uint32_t *seed)
{
    int64_t first, n_bytes;
    memcpy(&first, bytes + 8 * RTMTASS_WORD_INSTRUCTIONS_AT, 8);
    memcpy(&n_bytes, bytes + 8 * RTMTASS_WORD_INSTRUCTIONS_BYTES, 8);
    switch (draw(seed) % 8) {
    case 0:
        return draw(seed) % size;
    case 1:
        return draw(seed) % (RTMTASS_MODEL_HEADER_BYTES + 64);
    case 2:
        bytes[draw(seed) % size] ^= (unsigned char)(1u << draw(seed) % 8);
        return size;
    case 3:
    case 4:
        change_word(bytes, draw(seed) % (RTMTASS_MODEL_HEADER_BYTES / 8), seed);
        break;
    default:
        change_word(bytes, (size_t)first / 8 + draw(seed) % ((uint32_t)n_bytes / 8), seed);
    }
    seal(bytes, size);
    return size;
}

static void run_stream(const rtmtass_model *model, uint32_t rate)
{
    static buffers memory = {.seed = 1};
    rtmtass_config config = RTMTASS_CONFIG(rate, CHANNELS);
    rtmtass_stream *stream;
    stop_unless(rtmtass_new_stream(model, &config, &stream) == RTMTASS_OK, "new stream");
    process_blocks(stream, &memory, 8);
    rtmtass_free_stream(stream);
}

int main(int argc, char **argv)
{
    stop_unless(argc == 4, "usage: fuzz MODEL.rtm VARIANT N");
    size_t size;
    unsigned char *bytes = read_model(argv[1], &size);
    unsigned counts[RTMTASS_ERROR_VALUE + 1] = {0};
    uint32_t seed = 1;
    fill_crc_table();
    for (int i = 0; i < atoi(argv[3]); i++) {
        unsigned char *copy = malloc(size);
        stop_unless(copy != NULL, "memory");
        memcpy(copy, bytes, size);
        const size_t length = damage(copy, size, &seed);
        unsigned char *exact = malloc(length ? length : 1); /* reading beyond it is reported */
        stop_unless(exact != NULL, "memory");
        memcpy(exact, copy, length);
        rtmtass_model *model;
        const rtmtass_result result = rtmtass_open_variant(exact, length, argv[2], &model);
        free(copy);
        free(exact);
        stop_unless((result == RTMTASS_OK) == (model != NULL), "a model or an error");
        if (model) {
            run_stream(model, i % 2 ? 16000 : 48000);
            rtmtass_close(model);
        }
        counts[result]++;
    }
    free(bytes);
    for (size_t result = 0; result < sizeof counts / sizeof *counts; result++)
        printf("%u ", counts[result]);
    puts("");
    return 0;
}
