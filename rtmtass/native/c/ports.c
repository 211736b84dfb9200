/* Reads controls from ports, processes between ports, and writes the latency to its port. */
#include "ports.h"

#include <stdlib.h>

#include "plugin.h"

struct ports {
    plugin *plugin;
    uint32_t channels;
    bool has_enabled;
    float *locations[PORTS_COUNT(PLUGIN_MAX_CHANNELS)];
};

ports *ports_new(double sample_rate, uint32_t channels, bool has_enabled)
{
    ports *ports = calloc(1, sizeof *ports);
    if (ports == NULL)
        return NULL;
    ports->channels = channels;
    ports->has_enabled = has_enabled;
    ports->plugin = plugin_new();
    if (ports->plugin == NULL || !plugin_start(ports->plugin, sample_rate, channels)) {
        ports_free(ports);
        return NULL;
    }
    return ports;
}

void ports_free(ports *ports)
{
    plugin_free(ports->plugin);
    free(ports);
}

void ports_connect(ports *ports, size_t port, float *location)
{
    if (port < PORTS_COUNT(ports->channels))
        ports->locations[port] = location;
}

void ports_activate(ports *ports)
{
    plugin_reset(ports->plugin);
}

static void read_controls(const ports *ports)
{
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++) {
        const float *location = ports->locations[2 * ports->channels + control];
        if (location == NULL)
            continue; /* keeps its default */
        double value = *location;
        if (plugin_controls[control].kind == CONTROL_BYPASS)
            value = (value > 0.0) != ports->has_enabled;
        plugin_set(ports->plugin, control, value);
    }
}

static bool is_connected(const ports *ports)
{
    for (uint32_t port = 0; port < 2 * ports->channels; port++) {
        if (ports->locations[port] == NULL)
            return false;
    }
    return true;
}

void ports_run(ports *ports, size_t n)
{
    float *latency = ports->locations[PORTS_COUNT(ports->channels) - 1];
    if (latency != NULL)
        *latency = (float)plugin_latency(ports->plugin);
    read_controls(ports);
    if (n > 0 && is_connected(ports)) {
        plugin_process(ports->plugin, (const float *const *)ports->locations,
                       ports->locations + ports->channels, n);
    }
}
