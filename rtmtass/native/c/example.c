/* Shows the library at work: the stems of the sound on stdin, as the model names them.
 *
 *     sox talk.wav -t f32 -r 48000 -c 1 - | ./example rtmtass-small.rtm > stems.f32
 *     play -t f32 -r 48000 -c 3 stems.f32
 *
 * Input: mono 32-bit floats at 48 kHz. Output: as many channels as the model has stems.
 */
#include <stdio.h>
#include <stdlib.h>

#include "rtmtass.h"

#ifdef _WIN32 /* where streams are text unless a program says otherwise */
#include <fcntl.h>
#include <io.h>
#define MAKE_BINARY(file) _setmode(_fileno(file), _O_BINARY)
#else
#define MAKE_BINARY(file) (void)(file)
#endif

#define BLOCK 480

static void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) return NULL;
    long end = ftell(file);
    void *bytes = end > 0 ? malloc((size_t)end) : NULL;
    rewind(file);
    *size = bytes ? fread(bytes, 1, (size_t)end, file) : 0;
    fclose(file);
    return bytes;
}

static int fail(const char *path, rtmtass_result result)
{
    fprintf(stderr, "%s: %s\n", path, rtmtass_error_text(result));
    return 1;
}

int main(int argc, char **argv)
{
    size_t size = 0, n;
    void *bytes = argc == 2 ? read_file(argv[1], &size) : NULL;
    if (!bytes) {
        fprintf(stderr, "usage: example MODEL.rtm < mono.f32 > stems.f32\n");
        return 2;
    }
    MAKE_BINARY(stdin);
    MAKE_BINARY(stdout);

    rtmtass_model *model;
    rtmtass_stream *stream;
    rtmtass_config config = RTMTASS_CONFIG(48000, 1);
    rtmtass_result result = rtmtass_open(bytes, size, &model);
    if (result != RTMTASS_OK) return fail(argv[1], result);
    result = rtmtass_new_stream(model, &config, &stream);
    if (result != RTMTASS_OK) return fail(argv[1], result);

    float in[BLOCK], stems[RTMTASS_MAX_STEMS][BLOCK], *outs[RTMTASS_MAX_STEMS];
    const float *ins[1] = {in};
    for (int stem = 0; stem < RTMTASS_MAX_STEMS; stem++) outs[stem] = stems[stem];
    while ((n = fread(in, sizeof *in, BLOCK, stdin)) > 0) {
        rtmtass_process(stream, ins, outs, n);
        for (size_t i = 0; i < n; i++)
            for (uint32_t stem = 0; stem < rtmtass_n_stems(model); stem++)
                fwrite(&stems[stem][i], sizeof(float), 1, stdout);
    }
    fprintf(stderr, "the stems are %u samples late\n", (unsigned)rtmtass_latency(stream));
    rtmtass_free_stream(stream);
    rtmtass_close(model);
    free(bytes);
    return 0;
}
