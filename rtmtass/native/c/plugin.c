/* The one implementation behind our CLAP, LV2 and LADSPA plugins. */
#include "plugin.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "model_bytes.h"
#include "rtmtass.h"

#define CHUNK 256

struct plugin {
    rtmtass_model *model;
    rtmtass_stream *stream;
    uint32_t channels;
    uint32_t stems[RTMTASS_N_CONTROLS]; /* of the gains, in the model */
    /* Written by any thread. The processing thread passes on what differs from `applied`. */
    _Atomic double values[RTMTASS_N_CONTROLS];
    double applied[RTMTASS_N_CONTROLS];
    bool is_new; /* nothing was processed since the reset */
    float input[PLUGIN_MAX_CHANNELS][CHUNK];
};

#define CONTROL(id, symbol, name, kind, stem, minimum, maximum, initial)                         \
    {id, name, CONTROL_##kind, stem, minimum, maximum, initial},
const plugin_control plugin_controls[RTMTASS_N_CONTROLS] = {RTMTASS_EACH_CONTROL(CONTROL)};
#undef CONTROL

/* Number of a stem in the model, or of its stems if it has none of that name. */
static uint32_t find_stem(const rtmtass_model *model, const char *name)
{
    uint32_t n = rtmtass_n_stems(model);
    for (uint32_t stem = 0; stem < n; stem++) {
        if (strcmp(rtmtass_stem_name(model, stem), name) == 0)
            return stem;
    }
    return n;
}

/* Whether every gain has its stem in the model, and every stem its gain. */
static bool find_stems(plugin *plugin)
{
    uint32_t n = rtmtass_n_stems(plugin->model);
    uint32_t n_gains = 0;
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++) {
        if (plugin_controls[control].kind != CONTROL_GAIN)
            continue;
        plugin->stems[control] = find_stem(plugin->model, plugin_controls[control].stem);
        if (plugin->stems[control] == n)
            return false;
        n_gains++;
    }
    return n_gains == n;
}

plugin *plugin_new(void)
{
    plugin *plugin = calloc(1, sizeof *plugin);
    if (plugin == NULL)
        return NULL;
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++)
        atomic_init(&plugin->values[control], plugin_controls[control].initial);
    if (rtmtass_open(rtmtass_model_bytes, rtmtass_model_size, &plugin->model) != RTMTASS_OK ||
        !find_stems(plugin)) {
        plugin_free(plugin);
        return NULL;
    }
    return plugin;
}

void plugin_free(plugin *plugin)
{
    if (plugin == NULL)
        return;
    plugin_stop(plugin);
    rtmtass_close(plugin->model);
    free(plugin);
}

bool plugin_start(plugin *plugin, double sample_rate, uint32_t channels)
{
    /* rtmtass_new_stream has the true range; this one is of the conversion to an integer. */
    if (!(sample_rate >= 1.0 && sample_rate <= 1e9) || channels > PLUGIN_MAX_CHANNELS)
        return false;
    rtmtass_config config = RTMTASS_CONFIG((uint32_t)(sample_rate + 0.5), channels);
    config.output = RTMTASS_MIX;
    plugin_stop(plugin);
    if (rtmtass_new_stream(plugin->model, &config, &plugin->stream) != RTMTASS_OK) {
        plugin->stream = NULL;
        return false;
    }
    plugin->channels = channels;
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++)
        plugin->applied[control] = NAN;
    plugin_reset(plugin);
    return true;
}

void plugin_stop(plugin *plugin)
{
    rtmtass_free_stream(plugin->stream);
    plugin->stream = NULL;
}

uint32_t plugin_latency(const plugin *plugin)
{
    return plugin->stream == NULL ? 0 : rtmtass_latency(plugin->stream);
}

void plugin_set(plugin *plugin, uint32_t control, double value)
{
    if (isnan(value))
        return;
    value = fmin(fmax(value, plugin_controls[control].minimum), plugin_controls[control].maximum);
    atomic_store_explicit(&plugin->values[control], value, memory_order_relaxed);
}

double plugin_get(const plugin *plugin, uint32_t control)
{
    return atomic_load_explicit(&plugin->values[control], memory_order_relaxed);
}

static void pass_on(plugin *plugin, uint32_t control, double value)
{
    switch (plugin_controls[control].kind) {
    case CONTROL_GAIN:
        rtmtass_set_gain(plugin->stream, plugin->stems[control], (float)value);
        break;
    case CONTROL_STRENGTH:
        rtmtass_set_strength(plugin->stream, value < plugin_controls[control].maximum
                                                 ? (float)value
                                                 : INFINITY);
        break;
    case CONTROL_BYPASS:
        rtmtass_set_bypass(plugin->stream, value > 0.0);
        break;
    }
}

static void pass_on_changes(plugin *plugin)
{
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++) {
        double value = plugin_get(plugin, control);
        if (value != plugin->applied[control]) {
            pass_on(plugin, control, value);
            plugin->applied[control] = value;
        }
    }
}

void plugin_reset(plugin *plugin)
{
    plugin->is_new = true;
}

void plugin_process(plugin *plugin, const float *const *in, float *const *out, size_t n)
{
    if (n == 0)
        return;
    pass_on_changes(plugin);
    if (plugin->is_new) {
        /* Only here, after the host's first values: else they would be ramped to. */
        rtmtass_reset(plugin->stream);
        plugin->is_new = false;
    }
    for (size_t at = 0; at < n; at += CHUNK) {
        const float *sources[PLUGIN_MAX_CHANNELS];
        float *targets[PLUGIN_MAX_CHANNELS];
        size_t count = n - at < CHUNK ? n - at : CHUNK;
        for (uint32_t channel = 0; channel < plugin->channels; channel++) {
            memcpy(plugin->input[channel], in[channel] + at, count * sizeof(float));
            sources[channel] = plugin->input[channel];
            targets[channel] = out[channel] + at;
        }
        rtmtass_process(plugin->stream, sources, targets, count);
    }
}
