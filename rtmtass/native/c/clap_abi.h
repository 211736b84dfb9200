/* The part of the CLAP 1.1 interface that our plugins use, so that no header need be installed.
 *
 * Written from the specification (github.com/free-audio/clap, release 1.1.10); names, order and
 * types are those of <clap/clap.h>. The sizes and offsets asserted at the end were worked out
 * from that release for 64-bit systems.
 */
#ifndef RTMTASS_CLAP_ABI_H
#define RTMTASS_CLAP_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define CLAP_ABI __cdecl
#define CLAP_EXPORT __declspec(dllexport)
#else
#define CLAP_ABI
#define CLAP_EXPORT __attribute__((visibility("default")))
#endif

typedef struct clap_version {
    uint32_t major;
    uint32_t minor;
    uint32_t revision;
} clap_version_t;

#define CLAP_VERSION_INIT {1, 1, 10}

typedef uint32_t clap_id;
typedef int32_t clap_process_status;

enum { CLAP_NAME_SIZE = 256, CLAP_PATH_SIZE = 1024 };

/* Entry, factory and host. */

#define CLAP_PLUGIN_FACTORY_ID "clap.plugin-factory"

typedef struct clap_plugin_entry {
    clap_version_t clap_version;
    bool(CLAP_ABI *init)(const char *plugin_path);
    void(CLAP_ABI *deinit)(void);
    const void *(CLAP_ABI *get_factory)(const char *factory_id);
} clap_plugin_entry_t;

typedef struct clap_host {
    clap_version_t clap_version;
    void *host_data;
    const char *name;
    const char *vendor;
    const char *url;
    const char *version;
    const void *(CLAP_ABI *get_extension)(const struct clap_host *host, const char *id);
    void(CLAP_ABI *request_restart)(const struct clap_host *host);
    void(CLAP_ABI *request_process)(const struct clap_host *host);
    void(CLAP_ABI *request_callback)(const struct clap_host *host);
} clap_host_t;

/* Events. */

enum { CLAP_CORE_EVENT_SPACE_ID = 0, CLAP_EVENT_PARAM_VALUE = 5 };

typedef struct clap_event_header {
    uint32_t size;
    uint32_t time; /* offset in the block, in samples */
    uint16_t space_id;
    uint16_t type;
    uint32_t flags;
} clap_event_header_t;

typedef struct clap_event_param_value {
    clap_event_header_t header;
    clap_id param_id;
    void *cookie;
    int32_t note_id;
    int16_t port_index;
    int16_t channel;
    int16_t key;
    double value;
} clap_event_param_value_t;

typedef struct clap_input_events {
    void *ctx;
    uint32_t(CLAP_ABI *size)(const struct clap_input_events *list);
    const clap_event_header_t *(CLAP_ABI *get)(const struct clap_input_events *list,
                                               uint32_t index);
} clap_input_events_t;

typedef struct clap_output_events {
    void *ctx;
    bool(CLAP_ABI *try_push)(const struct clap_output_events *list,
                             const clap_event_header_t *event);
} clap_output_events_t;

/* Process. */

enum { CLAP_PROCESS_ERROR = 0, CLAP_PROCESS_CONTINUE = 1, CLAP_PROCESS_TAIL = 3 };

typedef struct clap_audio_buffer {
    float **data32;
    double **data64;
    uint32_t channel_count;
    uint32_t latency;
    uint64_t constant_mask;
} clap_audio_buffer_t;

typedef struct clap_process {
    int64_t steady_time;
    uint32_t frames_count;
    const void *transport; /* clap_event_transport_t, of no use to us */
    const clap_audio_buffer_t *audio_inputs;
    clap_audio_buffer_t *audio_outputs;
    uint32_t audio_inputs_count;
    uint32_t audio_outputs_count;
    const clap_input_events_t *in_events;
    const clap_output_events_t *out_events;
} clap_process_t;

/* Plugin. */

#define CLAP_PLUGIN_FEATURE_AUDIO_EFFECT "audio-effect"
#define CLAP_PLUGIN_FEATURE_RESTORATION "restoration"
#define CLAP_PLUGIN_FEATURE_UTILITY "utility"
#define CLAP_PLUGIN_FEATURE_MONO "mono"
#define CLAP_PLUGIN_FEATURE_STEREO "stereo"

typedef struct clap_plugin_descriptor {
    clap_version_t clap_version;
    const char *id;
    const char *name;
    const char *vendor;
    const char *url;
    const char *manual_url;
    const char *support_url;
    const char *version;
    const char *description;
    const char *const *features;
} clap_plugin_descriptor_t;

typedef struct clap_plugin {
    const clap_plugin_descriptor_t *desc;
    void *plugin_data;
    bool(CLAP_ABI *init)(const struct clap_plugin *plugin);
    void(CLAP_ABI *destroy)(const struct clap_plugin *plugin);
    bool(CLAP_ABI *activate)(const struct clap_plugin *plugin, double sample_rate,
                             uint32_t min_frames_count, uint32_t max_frames_count);
    void(CLAP_ABI *deactivate)(const struct clap_plugin *plugin);
    bool(CLAP_ABI *start_processing)(const struct clap_plugin *plugin);
    void(CLAP_ABI *stop_processing)(const struct clap_plugin *plugin);
    void(CLAP_ABI *reset)(const struct clap_plugin *plugin);
    clap_process_status(CLAP_ABI *process)(const struct clap_plugin *plugin,
                                           const clap_process_t *process);
    const void *(CLAP_ABI *get_extension)(const struct clap_plugin *plugin, const char *id);
    void(CLAP_ABI *on_main_thread)(const struct clap_plugin *plugin);
} clap_plugin_t;

typedef struct clap_plugin_factory {
    uint32_t(CLAP_ABI *get_plugin_count)(const struct clap_plugin_factory *factory);
    const clap_plugin_descriptor_t *(CLAP_ABI *get_plugin_descriptor)(
        const struct clap_plugin_factory *factory, uint32_t index);
    const clap_plugin_t *(CLAP_ABI *create_plugin)(const struct clap_plugin_factory *factory,
                                                   const clap_host_t *host,
                                                   const char *plugin_id);
} clap_plugin_factory_t;

/* Extensions. */

#define CLAP_EXT_AUDIO_PORTS "clap.audio-ports"
#define CLAP_PORT_MONO "mono"
#define CLAP_PORT_STEREO "stereo"

enum { CLAP_AUDIO_PORT_IS_MAIN = 1 << 0 };

typedef struct clap_audio_port_info {
    clap_id id;
    char name[CLAP_NAME_SIZE];
    uint32_t flags;
    uint32_t channel_count;
    const char *port_type;
    clap_id in_place_pair;
} clap_audio_port_info_t;

typedef struct clap_plugin_audio_ports {
    uint32_t(CLAP_ABI *count)(const clap_plugin_t *plugin, bool is_input);
    bool(CLAP_ABI *get)(const clap_plugin_t *plugin, uint32_t index, bool is_input,
                        clap_audio_port_info_t *info);
} clap_plugin_audio_ports_t;

#define CLAP_EXT_LATENCY "clap.latency"

typedef struct clap_plugin_latency {
    uint32_t(CLAP_ABI *get)(const clap_plugin_t *plugin);
} clap_plugin_latency_t;

typedef struct clap_host_latency {
    void(CLAP_ABI *changed)(const clap_host_t *host);
} clap_host_latency_t;

#define CLAP_EXT_TAIL "clap.tail"

typedef struct clap_plugin_tail {
    uint32_t(CLAP_ABI *get)(const clap_plugin_t *plugin);
} clap_plugin_tail_t;

#define CLAP_EXT_STATE "clap.state"

typedef struct clap_istream {
    void *ctx;
    int64_t(CLAP_ABI *read)(const struct clap_istream *stream, void *buffer, uint64_t size);
} clap_istream_t;

typedef struct clap_ostream {
    void *ctx;
    int64_t(CLAP_ABI *write)(const struct clap_ostream *stream, const void *buffer,
                             uint64_t size);
} clap_ostream_t;

typedef struct clap_plugin_state {
    bool(CLAP_ABI *save)(const clap_plugin_t *plugin, const clap_ostream_t *stream);
    bool(CLAP_ABI *load)(const clap_plugin_t *plugin, const clap_istream_t *stream);
} clap_plugin_state_t;

#define CLAP_EXT_PARAMS "clap.params"

enum {
    CLAP_PARAM_IS_STEPPED = 1 << 0,
    CLAP_PARAM_IS_BYPASS = 1 << 4,
    CLAP_PARAM_IS_AUTOMATABLE = 1 << 5,
    CLAP_PARAM_RESCAN_VALUES = 1 << 0,
};

typedef struct clap_param_info {
    clap_id id;
    uint32_t flags;
    void *cookie;
    char name[CLAP_NAME_SIZE];
    char module[CLAP_PATH_SIZE];
    double min_value;
    double max_value;
    double default_value;
} clap_param_info_t;

typedef struct clap_plugin_params {
    uint32_t(CLAP_ABI *count)(const clap_plugin_t *plugin);
    bool(CLAP_ABI *get_info)(const clap_plugin_t *plugin, uint32_t index,
                             clap_param_info_t *info);
    bool(CLAP_ABI *get_value)(const clap_plugin_t *plugin, clap_id id, double *value);
    bool(CLAP_ABI *value_to_text)(const clap_plugin_t *plugin, clap_id id, double value,
                                  char *text, uint32_t capacity);
    bool(CLAP_ABI *text_to_value)(const clap_plugin_t *plugin, clap_id id, const char *text,
                                  double *value);
    void(CLAP_ABI *flush)(const clap_plugin_t *plugin, const clap_input_events_t *in,
                          const clap_output_events_t *out);
} clap_plugin_params_t;

typedef struct clap_host_params {
    void(CLAP_ABI *rescan)(const clap_host_t *host, uint32_t flags);
    void(CLAP_ABI *clear)(const clap_host_t *host, clap_id id, uint32_t flags);
    void(CLAP_ABI *request_flush)(const clap_host_t *host);
} clap_host_params_t;

#if UINTPTR_MAX == UINT64_MAX
#define CLAP_PINNED(type, field, offset, size)                                                   \
    _Static_assert(offsetof(type, field) == (offset) && sizeof(type) == (size),                  \
                   "layout of " #type)
CLAP_PINNED(clap_plugin_entry_t, init, 16, 40);
CLAP_PINNED(clap_host_t, get_extension, 56, 88);
CLAP_PINNED(clap_event_header_t, flags, 12, 16);
CLAP_PINNED(clap_event_param_value_t, cookie, 24, 56);
CLAP_PINNED(clap_event_param_value_t, value, 48, 56);
CLAP_PINNED(clap_input_events_t, get, 16, 24);
CLAP_PINNED(clap_audio_buffer_t, constant_mask, 24, 32);
CLAP_PINNED(clap_process_t, audio_inputs, 24, 64);
CLAP_PINNED(clap_process_t, in_events, 48, 64);
CLAP_PINNED(clap_plugin_descriptor_t, features, 80, 88);
CLAP_PINNED(clap_plugin_t, process, 72, 96);
CLAP_PINNED(clap_audio_port_info_t, port_type, 272, 288);
CLAP_PINNED(clap_audio_port_info_t, in_place_pair, 280, 288);
CLAP_PINNED(clap_param_info_t, name, 16, 1320);
CLAP_PINNED(clap_param_info_t, min_value, 1296, 1320);
CLAP_PINNED(clap_plugin_params_t, flush, 40, 48);
#endif

#endif
