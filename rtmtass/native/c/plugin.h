/* What the CLAP, LV2 and LADSPA plugins share: the built-in model, a stream and its controls. */
#ifndef RTMTASS_PLUGIN_H
#define RTMTASS_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rtmtass_controls.h"

#define PLUGIN_MAX_CHANNELS 2

typedef enum { CONTROL_GAIN, CONTROL_STRENGTH, CONTROL_BYPASS } control_kind;

/* A control, as a user sees it; dB, or 0 and 1 for a bypass. */
typedef struct {
    uint32_t id; /* the same in every model and release */
    const char *name;
    control_kind kind;
    const char *stem; /* of a gain, else empty */
    double minimum;   /* of a gain: the stem is off */
    double maximum;   /* of the strength: no limit */
    double initial;
} plugin_control;

extern const plugin_control plugin_controls[RTMTASS_N_CONTROLS];

typedef struct plugin plugin;

/* Open the built-in model; NULL without memory, or if its stems aren't those of the controls. */
plugin *plugin_new(void);
/* NULL is ignored. */
void plugin_free(plugin *plugin);

/* Allocate the stream of `channels`; false if the rate in Hz is out of range, or no memory. */
bool plugin_start(plugin *plugin, double sample_rate, uint32_t channels);
void plugin_stop(plugin *plugin);

/* Offset of the output against the input, in samples; 0 while stopped. */
uint32_t plugin_latency(const plugin *plugin);

/* Set a control from any thread, clamped to its range; NaN changes nothing. */
void plugin_set(plugin *plugin, uint32_t control, double value);
double plugin_get(const plugin *plugin, uint32_t control);

/* Begin the next call of plugin_process with silence behind it and the gains already reached. */
void plugin_reset(plugin *plugin);

/* Process n samples of every channel of a started plugin, as rtmtass_process does.
 *
 * Any input may share its memory with any output. Allocates nothing and takes no lock.
 */
void plugin_process(plugin *plugin, const float *const *in, float *const *out, size_t n);

#endif
