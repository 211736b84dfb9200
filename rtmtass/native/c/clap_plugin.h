/* What the parts of the CLAP plugin share: the instance and its extensions. */
#ifndef RTMTASS_CLAP_PLUGIN_H
#define RTMTASS_CLAP_PLUGIN_H

#include "clap_abi.h"
#include "plugin.h"

typedef struct {
    clap_plugin_t clap; /* its plugin_data points to this struct */
    const clap_host_t *host;
    const clap_host_latency_t *host_latency; /* NULL where the host lacks it, as below */
    const clap_host_params_t *host_params;
    plugin *plugin;
    uint32_t channels;
    uint32_t latency; /* in samples, of the last activation */
} clap_instance;

static inline clap_instance *instance_of(const clap_plugin_t *clap)
{
    return clap->plugin_data;
}

extern const clap_plugin_params_t clap_params;
extern const clap_plugin_state_t clap_state;

/* Index of the control with a parameter's id; RTMTASS_N_CONTROLS if there is none. */
uint32_t clap_find_control(clap_id id);

/* Whether an event sets one of our parameters. */
bool clap_is_ours(const clap_event_header_t *event);
/* Set the parameter that such an event names. */
void clap_apply(clap_instance *instance, const clap_event_header_t *event);

#endif
