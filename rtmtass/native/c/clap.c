/* The CLAP plugins: entry, factory, life cycle, processing and audio ports.
 *
 * Mono and stereo are two plugins with fixed ports, not one with clap.audio-ports-config: every
 * host loads these, and the extension is optional.
 */
#include <stdlib.h>
#include <string.h>

#include "clap_plugin.h"

#define MAIN_PORT 0

static const char *const MONO_FEATURES[] = {
    CLAP_PLUGIN_FEATURE_AUDIO_EFFECT, CLAP_PLUGIN_FEATURE_RESTORATION,
    CLAP_PLUGIN_FEATURE_UTILITY, CLAP_PLUGIN_FEATURE_MONO, NULL};
static const char *const STEREO_FEATURES[] = {
    CLAP_PLUGIN_FEATURE_AUDIO_EFFECT, CLAP_PLUGIN_FEATURE_RESTORATION,
    CLAP_PLUGIN_FEATURE_UTILITY, CLAP_PLUGIN_FEATURE_STEREO, NULL};

#define DESCRIPTOR(layout)                                                                       \
    {                                                                                            \
        .clap_version = CLAP_VERSION_INIT,                                                       \
        .id = RTMTASS_CLAP_##layout,                                                             \
        .name = RTMTASS_NAME_##layout,                                                           \
        .vendor = RTMTASS_VENDOR,                                                                \
        .url = "",                                                                               \
        .manual_url = "",                                                                        \
        .support_url = "",                                                                       \
        .version = RTMTASS_PLUGIN_VERSION,                                                       \
        .description = RTMTASS_DESCRIPTION,                                                      \
        .features = layout##_FEATURES,                                                           \
    }

/* The index is the number of channels - 1. */
static const clap_plugin_descriptor_t DESCRIPTORS[] = {DESCRIPTOR(MONO), DESCRIPTOR(STEREO)};
#define N_DESCRIPTORS (sizeof DESCRIPTORS / sizeof *DESCRIPTORS)

/* Audio ports: one in, one out. */

static uint32_t CLAP_ABI ports_count(const clap_plugin_t *clap, bool is_input)
{
    (void)clap;
    (void)is_input;
    return 1;
}

static bool CLAP_ABI ports_get(const clap_plugin_t *clap, uint32_t index, bool is_input,
                               clap_audio_port_info_t *info)
{
    if (index != 0)
        return false;
    memset(info, 0, sizeof *info);
    info->id = MAIN_PORT;
    strcpy(info->name, is_input ? "Input" : "Output");
    info->flags = CLAP_AUDIO_PORT_IS_MAIN;
    info->channel_count = instance_of(clap)->channels;
    info->port_type = info->channel_count == 1 ? CLAP_PORT_MONO : CLAP_PORT_STEREO;
    info->in_place_pair = MAIN_PORT;
    return true;
}

static const clap_plugin_audio_ports_t audio_ports = {ports_count, ports_get};

/* Latency and tail. */

static uint32_t CLAP_ABI latency_get(const clap_plugin_t *clap)
{
    return instance_of(clap)->latency;
}

static const clap_plugin_latency_t latency = {latency_get};

/* After the input, the output lasts for the latency and for the rest of the synthesis windows
 * and resampling filters, which are within the latency themselves.
 */
static uint32_t CLAP_ABI tail_get(const clap_plugin_t *clap)
{
    return 2 * instance_of(clap)->latency;
}

static const clap_plugin_tail_t tail = {tail_get};

/* Life cycle. */

static const void *host_extension(const clap_host_t *host, const char *id)
{
    return host->get_extension == NULL ? NULL : host->get_extension(host, id);
}

static bool CLAP_ABI init(const clap_plugin_t *clap)
{
    clap_instance *instance = instance_of(clap);
    instance->host_latency = host_extension(instance->host, CLAP_EXT_LATENCY);
    instance->host_params = host_extension(instance->host, CLAP_EXT_PARAMS);
    instance->plugin = plugin_new();
    return instance->plugin != NULL;
}

static void CLAP_ABI destroy(const clap_plugin_t *clap)
{
    clap_instance *instance = instance_of(clap);
    plugin_free(instance->plugin);
    free(instance);
}

static bool CLAP_ABI activate(const clap_plugin_t *clap, double sample_rate, uint32_t min_frames,
                              uint32_t max_frames)
{
    (void)min_frames;
    (void)max_frames;
    clap_instance *instance = instance_of(clap);
    if (!plugin_start(instance->plugin, sample_rate, instance->channels))
        return false;
    uint32_t before = instance->latency;
    instance->latency = plugin_latency(instance->plugin);
    /* The one moment at which CLAP 1.2 allows a new latency, and 1.1 does too. */
    if (instance->latency != before && instance->host_latency != NULL)
        instance->host_latency->changed(instance->host);
    return true;
}

static void CLAP_ABI deactivate(const clap_plugin_t *clap)
{
    plugin_stop(instance_of(clap)->plugin);
}

static bool CLAP_ABI start_processing(const clap_plugin_t *clap)
{
    (void)clap;
    return true;
}

static void CLAP_ABI stop_processing(const clap_plugin_t *clap)
{
    (void)clap;
}

static void CLAP_ABI reset(const clap_plugin_t *clap)
{
    plugin_reset(instance_of(clap)->plugin);
}

static void CLAP_ABI on_main_thread(const clap_plugin_t *clap)
{
    (void)clap;
}

/* Processing. */

static bool is_usable(const clap_audio_buffer_t *buffer, uint32_t channels)
{
    return buffer->channel_count == channels && buffer->data32 != NULL;
}

static void process_range(clap_instance *instance, const clap_process_t *process, uint32_t from,
                          uint32_t to)
{
    const float *in[PLUGIN_MAX_CHANNELS];
    float *out[PLUGIN_MAX_CHANNELS];
    for (uint32_t channel = 0; channel < instance->channels; channel++) {
        in[channel] = process->audio_inputs[0].data32[channel] + from;
        out[channel] = process->audio_outputs[0].data32[channel] + from;
    }
    plugin_process(instance->plugin, in, out, to - from);
}

static clap_process_status CLAP_ABI process_block(const clap_plugin_t *clap,
                                                  const clap_process_t *process)
{
    clap_instance *instance = instance_of(clap);
    const clap_input_events_t *events = process->in_events;
    uint32_t n_events = events == NULL ? 0 : events->size(events);
    uint32_t n = process->frames_count;
    uint32_t at = 0;
    if (process->audio_inputs_count != 1 || process->audio_outputs_count != 1 ||
        !is_usable(process->audio_inputs, instance->channels) ||
        !is_usable(process->audio_outputs, instance->channels))
        return CLAP_PROCESS_ERROR;
    for (uint32_t i = 0; i < n_events; i++) {
        const clap_event_header_t *event = events->get(events, i);
        if (!clap_is_ours(event))
            continue;
        uint32_t until = event->time < n ? event->time : n;
        if (until > at) {
            process_range(instance, process, at, until);
            at = until;
        }
        clap_apply(instance, event);
    }
    process_range(instance, process, at, n);
    process->audio_outputs[0].constant_mask = 0;
    return CLAP_PROCESS_TAIL;
}

static const void *CLAP_ABI get_extension(const clap_plugin_t *clap, const char *id)
{
    (void)clap;
    static const struct {
        const char *id;
        const void *extension;
    } EXTENSIONS[] = {
        {CLAP_EXT_PARAMS, &clap_params}, {CLAP_EXT_STATE, &clap_state},
        {CLAP_EXT_AUDIO_PORTS, &audio_ports}, {CLAP_EXT_LATENCY, &latency},
        {CLAP_EXT_TAIL, &tail},
    };
    for (size_t i = 0; i < sizeof EXTENSIONS / sizeof *EXTENSIONS; i++) {
        if (strcmp(id, EXTENSIONS[i].id) == 0)
            return EXTENSIONS[i].extension;
    }
    return NULL;
}

/* Factory and entry. */

static uint32_t CLAP_ABI factory_count(const clap_plugin_factory_t *factory)
{
    (void)factory;
    return N_DESCRIPTORS;
}

static const clap_plugin_descriptor_t *CLAP_ABI
factory_descriptor(const clap_plugin_factory_t *factory, uint32_t index)
{
    (void)factory;
    return index < N_DESCRIPTORS ? &DESCRIPTORS[index] : NULL;
}

static const clap_plugin_t *CLAP_ABI factory_create(const clap_plugin_factory_t *factory,
                                                    const clap_host_t *host, const char *id)
{
    (void)factory;
    uint32_t index = 0;
    while (index < N_DESCRIPTORS && strcmp(id, DESCRIPTORS[index].id) != 0)
        index++;
    if (index == N_DESCRIPTORS)
        return NULL;
    clap_instance *instance = calloc(1, sizeof *instance);
    if (instance == NULL)
        return NULL;
    instance->host = host;
    instance->channels = index + 1;
    instance->clap = (clap_plugin_t){
        .desc = &DESCRIPTORS[index],
        .plugin_data = instance,
        .init = init,
        .destroy = destroy,
        .activate = activate,
        .deactivate = deactivate,
        .start_processing = start_processing,
        .stop_processing = stop_processing,
        .reset = reset,
        .process = process_block,
        .get_extension = get_extension,
        .on_main_thread = on_main_thread,
    };
    return &instance->clap;
}

static const clap_plugin_factory_t FACTORY = {factory_count, factory_descriptor, factory_create};

static bool CLAP_ABI entry_init(const char *plugin_path)
{
    (void)plugin_path;
    return true;
}

static void CLAP_ABI entry_deinit(void)
{
}

static const void *CLAP_ABI entry_factory(const char *factory_id)
{
    return strcmp(factory_id, CLAP_PLUGIN_FACTORY_ID) == 0 ? &FACTORY : NULL;
}

CLAP_EXPORT extern const clap_plugin_entry_t clap_entry;
const clap_plugin_entry_t clap_entry = {CLAP_VERSION_INIT, entry_init, entry_deinit,
                                        entry_factory};
