/* The part of the LV2 core interface that our plugins use, so that no header need be installed.
 *
 * Written from the specification (lv2plug.in/ns/lv2core); names, order and types are those of
 * <lv2/core/lv2.h>, which a test compares with these where it is installed.
 */
#ifndef RTMTASS_LV2_ABI_H
#define RTMTASS_LV2_ABI_H

#include <stdint.h>

typedef void *LV2_Handle;

typedef struct {
    const char *URI;
    void *data;
} LV2_Feature;

typedef struct LV2_Descriptor {
    const char *URI;
    LV2_Handle (*instantiate)(const struct LV2_Descriptor *descriptor, double sample_rate,
                              const char *bundle_path, const LV2_Feature *const *features);
    void (*connect_port)(LV2_Handle instance, uint32_t port, void *location);
    void (*activate)(LV2_Handle instance);
    void (*run)(LV2_Handle instance, uint32_t n);
    void (*deactivate)(LV2_Handle instance);
    void (*cleanup)(LV2_Handle instance);
    const void *(*extension_data)(const char *uri);
} LV2_Descriptor;

#endif
