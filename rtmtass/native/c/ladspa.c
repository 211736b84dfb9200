/* The LADSPA plugins: mono and stereo. */
#include "ladspa_abi.h"

#include <stddef.h>

#include "ports.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define AUDIO_IN (LADSPA_PORT_AUDIO | LADSPA_PORT_INPUT)
#define AUDIO_OUT (LADSPA_PORT_AUDIO | LADSPA_PORT_OUTPUT)

/* Every default is 0 or an end of the range: LADSPA has no other that fits. */
#define DEFAULT(minimum, maximum, initial)                                                       \
    ((initial) == 0           ? LADSPA_HINT_DEFAULT_0                                            \
     : (initial) == (minimum) ? LADSPA_HINT_DEFAULT_MINIMUM                                      \
                              : LADSPA_HINT_DEFAULT_MAXIMUM)
#define HINT_GAIN(minimum, maximum, initial)                                                     \
    {LADSPA_HINT_BOUNDED_BELOW | LADSPA_HINT_BOUNDED_ABOVE | DEFAULT(minimum, maximum, initial), \
     minimum, maximum}
#define HINT_STRENGTH HINT_GAIN
#define HINT_BYPASS(minimum, maximum, initial)                                                   \
    {LADSPA_HINT_TOGGLED | DEFAULT(minimum, maximum, initial), 0, 0}
#define NAME_GAIN(name) name " (dB)"
#define NAME_STRENGTH(name) name " (dB)"
#define NAME_BYPASS(name) name

#define PORT(id, symbol, name, kind, stem, minimum, maximum, initial)                            \
    LADSPA_PORT_CONTROL | LADSPA_PORT_INPUT,
#define NAME(id, symbol, name, kind, stem, minimum, maximum, initial) NAME_##kind(name),
#define HINT(id, symbol, name, kind, stem, minimum, maximum, initial)                            \
    HINT_##kind(minimum, maximum, initial),

/* Hosts look for a control output of the name "latency". */
#define LATENCY_PORT LADSPA_PORT_CONTROL | LADSPA_PORT_OUTPUT
#define LATENCY_HINT {LADSPA_HINT_BOUNDED_BELOW | LADSPA_HINT_INTEGER, 0, 0}
#define AUDIO_HINT {0, 0, 0}

static const LADSPA_PortDescriptor MONO_PORTS[] = {AUDIO_IN, AUDIO_OUT,
                                                   RTMTASS_EACH_CONTROL(PORT) LATENCY_PORT};
static const LADSPA_PortDescriptor STEREO_PORTS[] = {AUDIO_IN, AUDIO_IN, AUDIO_OUT, AUDIO_OUT,
                                                     RTMTASS_EACH_CONTROL(PORT) LATENCY_PORT};
static const char *const MONO_NAMES[] = {"Input", "Output",
                                         RTMTASS_EACH_CONTROL(NAME) "latency"};
static const char *const STEREO_NAMES[] = {"Input left", "Input right", "Output left",
                                           "Output right",
                                           RTMTASS_EACH_CONTROL(NAME) "latency"};
static const LADSPA_PortRangeHint MONO_HINTS[] = {AUDIO_HINT, AUDIO_HINT,
                                                  RTMTASS_EACH_CONTROL(HINT) LATENCY_HINT};
static const LADSPA_PortRangeHint STEREO_HINTS[] = {AUDIO_HINT, AUDIO_HINT, AUDIO_HINT, AUDIO_HINT,
                                                    RTMTASS_EACH_CONTROL(HINT) LATENCY_HINT};

static LADSPA_Handle instantiate(const LADSPA_Descriptor *descriptor, unsigned long sample_rate)
{
    uint32_t channels = descriptor->PortCount == PORTS_COUNT(1) ? 1 : 2;
    return ports_new((double)sample_rate, channels, false);
}

static void connect_port(LADSPA_Handle instance, unsigned long port, LADSPA_Data *location)
{
    ports_connect(instance, port, location);
}

static void activate(LADSPA_Handle instance)
{
    ports_activate(instance);
}

static void run(LADSPA_Handle instance, unsigned long n)
{
    ports_run(instance, n);
}

static void cleanup(LADSPA_Handle instance)
{
    ports_free(instance);
}

#define DESCRIPTOR(layout, channels, title)                                                      \
    {                                                                                            \
        .UniqueID = RTMTASS_LADSPA_##layout,                                                     \
        .Label = RTMTASS_LABEL_##layout,                                                         \
        .Properties = LADSPA_PROPERTY_HARD_RT_CAPABLE,                                           \
        .Name = title,                                                                           \
        .Maker = RTMTASS_VENDOR,                                                                 \
        .Copyright = RTMTASS_LICENCE,                                                            \
        .PortCount = PORTS_COUNT(channels),                                                      \
        .PortDescriptors = layout##_PORTS,                                                       \
        .PortNames = layout##_NAMES,                                                             \
        .PortRangeHints = layout##_HINTS,                                                        \
        .instantiate = instantiate,                                                              \
        .connect_port = connect_port,                                                            \
        .activate = activate,                                                                    \
        .run = run,                                                                              \
        .cleanup = cleanup,                                                                      \
    }

static const LADSPA_Descriptor DESCRIPTORS[] = {
    DESCRIPTOR(MONO, 1, RTMTASS_NAME_MONO),
    DESCRIPTOR(STEREO, 2, RTMTASS_NAME_STEREO),
};

EXPORT const LADSPA_Descriptor *ladspa_descriptor(unsigned long index);

const LADSPA_Descriptor *ladspa_descriptor(unsigned long index)
{
    return index < sizeof DESCRIPTORS / sizeof *DESCRIPTORS ? &DESCRIPTORS[index] : NULL;
}
