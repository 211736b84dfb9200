/* A plugin whose host connects one pointer per port: what LV2 and LADSPA have in common.
 *
 * Ports, in order: the inputs, the outputs, the controls, the latency.
 */
#ifndef RTMTASS_PORTS_H
#define RTMTASS_PORTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rtmtass_controls.h"

#define PORTS_COUNT(channels) (2 * (channels) + RTMTASS_N_CONTROLS + 1)

typedef struct ports ports;

/* Create a plugin; NULL if the rate is out of range or there is no memory.
 *
 * has_enabled: the bypass's port is 1 to process and 0 to bypass, the other way round.
 */
ports *ports_new(double sample_rate, uint32_t channels, bool has_enabled);
void ports_free(ports *ports);
void ports_connect(ports *ports, size_t port, float *location);
/* Begin anew from silence. */
void ports_activate(ports *ports);
void ports_run(ports *ports, size_t n);

#endif
