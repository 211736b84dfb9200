/* The LV2 plugins: mono and stereo. Their ports are described in the bundle's rtmtass.ttl. */
#include "lv2_abi.h"

#include <stddef.h>
#include <string.h>

#include "ports.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

static LV2_Handle instantiate(const LV2_Descriptor *descriptor, double sample_rate,
                              const char *bundle_path, const LV2_Feature *const *features)
{
    (void)bundle_path;
    (void)features;
    uint32_t channels = strcmp(descriptor->URI, RTMTASS_LV2_MONO) == 0 ? 1 : 2;
    return ports_new(sample_rate, channels, true);
}

static void connect_port(LV2_Handle instance, uint32_t port, void *location)
{
    ports_connect(instance, port, location);
}

static void activate(LV2_Handle instance)
{
    ports_activate(instance);
}

static void run(LV2_Handle instance, uint32_t n)
{
    ports_run(instance, n);
}

static void cleanup(LV2_Handle instance)
{
    ports_free(instance);
}

#define DESCRIPTOR(uri)                                                                          \
    {                                                                                            \
        .URI = (uri),                                                                            \
        .instantiate = instantiate,                                                              \
        .connect_port = connect_port,                                                            \
        .activate = activate,                                                                    \
        .run = run,                                                                              \
        .cleanup = cleanup,                                                                      \
    }

static const LV2_Descriptor DESCRIPTORS[] = {
    DESCRIPTOR(RTMTASS_LV2_MONO),
    DESCRIPTOR(RTMTASS_LV2_STEREO),
};

EXPORT const LV2_Descriptor *lv2_descriptor(uint32_t index);

const LV2_Descriptor *lv2_descriptor(uint32_t index)
{
    return index < sizeof DESCRIPTORS / sizeof *DESCRIPTORS ? &DESCRIPTORS[index] : NULL;
}
