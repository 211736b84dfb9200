/* Uses every function of the library once, for tools that watch the memory it uses.
 *
 *     lifetime MODEL.rtm VARIANT N_BLOCKS
 */
#include "program.h"

#include <math.h>

static void use_displays(const rtmtass_model *model, rtmtass_stream *stream)
{
    const uint32_t n_stems = rtmtass_n_stems(model);
    float figures[2 * (RTMTASS_MAX_STEMS + 2)];
    stop_unless(rtmtass_levels(stream, figures) == RTMTASS_OK, "levels");
    for (uint32_t k = 0; k < 2 * (n_stems + 2); k++)
        stop_unless(isfinite(figures[k]), "a level is finite");
    stop_unless(rtmtass_factors(stream, figures) == RTMTASS_OK && figures[0] == 0.0f, "factors");
    stop_unless(rtmtass_hops(stream) > 0, "hops");
    const float *stems = rtmtass_last_stems(stream);
    for (uint32_t i = 0; i < n_stems * rtmtass_hop(model) * CHANNELS; i++)
        stop_unless(isfinite(stems[i]), "a stem is finite");
}

static void use_stream(const rtmtass_model *model, uint32_t rate, uint32_t output, int n_blocks)
{
    buffers *memory = calloc(1, sizeof *memory);
    stop_unless(memory != NULL, "memory");
    memory->seed = 1;
    rtmtass_stream *stream = new_stream(model, rate, output);
    stop_unless(rtmtass_outputs(stream) <= MOST_OUTPUTS, "outputs");
    process_blocks(stream, memory, n_blocks);
    stop_unless(rtmtass_set_gain(stream, 0, -3.0f) == RTMTASS_OK, "gain");
    stop_unless(rtmtass_set_strength(stream, 20.0f) == RTMTASS_OK, "strength");
    process_blocks(stream, memory, n_blocks);
    stop_unless(rtmtass_set_mute(stream, 0, 1) == RTMTASS_OK, "mute");
    stop_unless(rtmtass_set_solo(stream, 1, 1) == RTMTASS_OK, "solo");
    use_displays(model, stream);
    rtmtass_set_bypass(stream, 1);
    process_blocks(stream, memory, n_blocks);
    rtmtass_reset(stream);
    process_blocks(stream, memory, n_blocks);
    for (uint32_t k = 0; k < rtmtass_outputs(stream); k++)
        for (int i = 0; i < LONGEST; i++)
            stop_unless(isfinite(memory->out[k][i]), "an output is finite");
    rtmtass_free_stream(stream);
    free(memory);
}

int main(int argc, char **argv)
{
    stop_unless(argc == 4, "usage: lifetime MODEL.rtm VARIANT N_BLOCKS");
    size_t size;
    unsigned char *bytes = read_model(argv[1], &size);
    rtmtass_model *model;
    stop_unless(rtmtass_open_variant(bytes, size, argv[2], &model) == RTMTASS_OK, "open");
    for (size_t cut = 0; cut < size; cut += 1 + size / 9) {
        rtmtass_model *none;
        stop_unless(rtmtass_open_variant(bytes, cut, argv[2], &none) != RTMTASS_OK, "a part");
        stop_unless(none == NULL, "no model of a part");
    }
    free(bytes);
    stop_unless(rtmtass_model_name(model)[0] != 0, "name");
    stop_unless(rtmtass_stem_name(model, rtmtass_n_stems(model)) == NULL, "no such stem");
    for (uint32_t output = RTMTASS_STEMS; output <= RTMTASS_MIX_AND_STEMS; output++) {
        use_stream(model, 16000, output, atoi(argv[3]));
        use_stream(model, 48000, output, atoi(argv[3]));
    }
    rtmtass_close(model);
    rtmtass_close(NULL);
    rtmtass_free_stream(NULL);
    puts("done");
    return 0;
}
