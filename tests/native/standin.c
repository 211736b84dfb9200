/* Stands in for the native library in tests of the plugins: a delay, and stems that are fixed
 * parts of the input, so that every sample of the output is known.
 *
 * Gains, once set, are reached over RAMP samples, or at once by a reset. It counts calls of the
 * setters in standin_calls and refuses a model that doesn't begin with its magic.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RTMTASS_BUILD
#include "rtmtass.h"

#ifndef STANDIN_STEMS
#define STANDIN_STEMS "speech", "music", "noise"
#endif
#define RAMP 64
#define MAX_DELAY 2048
#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char MAGIC[] = "standin";
static const char *const STEMS[] = {STANDIN_STEMS};
static const float PARTS[] = {0.5f, 0.25f, 0.125f, 0.125f};

RTMTASS_API unsigned standin_calls;

struct rtmtass_model {
    int n_streams;
};

struct rtmtass_stream {
    rtmtass_config config;
    float gains_db[RTMTASS_MAX_STEMS], strength_db;
    int is_bypassed, left;
    float gain, step; /* of the sum of all stems */
    uint32_t delay, at;
    float line[RTMTASS_MAX_CHANNELS][MAX_DELAY];
};

static float target(const rtmtass_stream *stream)
{
    float loudest = -INFINITY, sum = 0.0f;
    if (stream->is_bypassed)
        return 1.0f;
    for (size_t stem = 0; stem < COUNT(STEMS); stem++)
        loudest = fmaxf(loudest, stream->gains_db[stem]);
    for (size_t stem = 0; stem < COUNT(STEMS); stem++) {
        float gain_db = fmaxf(stream->gains_db[stem], loudest - stream->strength_db);
        sum += gain_db <= -60.0f ? 0.0f : PARTS[stem] * powf(10.0f, gain_db / 20.0f);
    }
    return sum;
}

static rtmtass_result changed(rtmtass_stream *stream)
{
    standin_calls++;
    stream->left = RAMP;
    stream->step = (target(stream) - stream->gain) / RAMP;
    return RTMTASS_OK;
}

rtmtass_result rtmtass_open(const void *bytes, size_t size, rtmtass_model **model)
{
    if (size < sizeof MAGIC - 1 || memcmp(bytes, MAGIC, sizeof MAGIC - 1) != 0)
        return RTMTASS_ERROR_NOT_A_MODEL;
    *model = calloc(1, sizeof **model);
    return *model == NULL ? RTMTASS_ERROR_MEMORY : RTMTASS_OK;
}

void rtmtass_close(rtmtass_model *model)
{
    free(model);
}

uint32_t rtmtass_n_stems(const rtmtass_model *model)
{
    (void)model;
    return COUNT(STEMS);
}

const char *rtmtass_stem_name(const rtmtass_model *model, uint32_t stem)
{
    (void)model;
    return stem < COUNT(STEMS) ? STEMS[stem] : NULL;
}

rtmtass_result rtmtass_new_stream(const rtmtass_model *model, const rtmtass_config *config,
                                  rtmtass_stream **stream)
{
    (void)model;
    if (config->sample_rate < 2000 || config->sample_rate > 768000)
        return RTMTASS_ERROR_SAMPLE_RATE;
    if (config->output != RTMTASS_MIX)
        return RTMTASS_ERROR_OUTPUT;
    *stream = calloc(1, sizeof **stream);
    if (*stream == NULL)
        return RTMTASS_ERROR_MEMORY;
    (*stream)->config = *config;
    (*stream)->strength_db = INFINITY;
    (*stream)->delay = config->sample_rate / 100;
    rtmtass_reset(*stream);
    return RTMTASS_OK;
}

void rtmtass_free_stream(rtmtass_stream *stream)
{
    free(stream);
}

uint32_t rtmtass_latency(const rtmtass_stream *stream)
{
    return stream->delay;
}

void rtmtass_reset(rtmtass_stream *stream)
{
    memset(stream->line, 0, sizeof stream->line);
    stream->gain = target(stream);
    stream->left = 0;
    stream->at = 0;
}

void rtmtass_process(rtmtass_stream *stream, const float *const *in, float *const *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (stream->left > 0)
            stream->gain = --stream->left == 0 ? target(stream) : stream->gain + stream->step;
        for (uint32_t channel = 0; channel < stream->config.channels; channel++) {
            float *slot = &stream->line[channel][stream->at];
            float input = in[channel][i];
            out[channel][i] = stream->gain * *slot;
            *slot = input;
        }
        stream->at = (stream->at + 1) % stream->delay;
    }
}

rtmtass_result rtmtass_set_gain(rtmtass_stream *stream, uint32_t stem, float gain_db)
{
    stream->gains_db[stem] = gain_db;
    return changed(stream);
}

rtmtass_result rtmtass_set_strength(rtmtass_stream *stream, float strength_db)
{
    stream->strength_db = strength_db;
    return changed(stream);
}

void rtmtass_set_bypass(rtmtass_stream *stream, int is_bypassed)
{
    stream->is_bypassed = is_bypassed;
    changed(stream);
}
