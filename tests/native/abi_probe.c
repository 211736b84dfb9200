/* Prints the layout of a plugin interface, as our header has it or, with INSTALLED, the system's. */
#include <stddef.h>
#include <stdio.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(type))
#define FIELD(type, field)                                                                       \
    printf(#type "." #field " %zu %zu\n", offsetof(type, field), sizeof(((type *)0)->field))
#define VALUE(name) printf(#name " %ld\n", (long)(name))

#if defined(PROBE_LADSPA)
#ifdef INSTALLED
#include <ladspa.h>
#else
#include "ladspa_abi.h"
#endif
/* Assignments that compile without a warning only if the types are the same. */
static LADSPA_Handle (*instantiate)(const LADSPA_Descriptor *, unsigned long);
static void (*connect_port)(LADSPA_Handle, unsigned long, LADSPA_Data *);
static void (*run)(LADSPA_Handle, unsigned long);
int main(void)
{
    LADSPA_Descriptor descriptor = {0};
    instantiate = descriptor.instantiate;
    connect_port = descriptor.connect_port;
    run = descriptor.run;
    descriptor.cleanup = descriptor.activate;
    SIZE(LADSPA_PortRangeHint);
    FIELD(LADSPA_PortRangeHint, HintDescriptor);
    FIELD(LADSPA_PortRangeHint, LowerBound);
    FIELD(LADSPA_PortRangeHint, UpperBound);
    SIZE(LADSPA_Descriptor);
    FIELD(LADSPA_Descriptor, UniqueID);
    FIELD(LADSPA_Descriptor, Label);
    FIELD(LADSPA_Descriptor, Properties);
    FIELD(LADSPA_Descriptor, Name);
    FIELD(LADSPA_Descriptor, Maker);
    FIELD(LADSPA_Descriptor, Copyright);
    FIELD(LADSPA_Descriptor, PortCount);
    FIELD(LADSPA_Descriptor, PortDescriptors);
    FIELD(LADSPA_Descriptor, PortNames);
    FIELD(LADSPA_Descriptor, PortRangeHints);
    FIELD(LADSPA_Descriptor, ImplementationData);
    FIELD(LADSPA_Descriptor, instantiate);
    FIELD(LADSPA_Descriptor, connect_port);
    FIELD(LADSPA_Descriptor, activate);
    FIELD(LADSPA_Descriptor, run);
    FIELD(LADSPA_Descriptor, run_adding);
    FIELD(LADSPA_Descriptor, set_run_adding_gain);
    FIELD(LADSPA_Descriptor, deactivate);
    FIELD(LADSPA_Descriptor, cleanup);
    VALUE(LADSPA_PROPERTY_HARD_RT_CAPABLE);
    VALUE(LADSPA_PORT_INPUT);
    VALUE(LADSPA_PORT_OUTPUT);
    VALUE(LADSPA_PORT_CONTROL);
    VALUE(LADSPA_PORT_AUDIO);
    VALUE(LADSPA_HINT_BOUNDED_BELOW);
    VALUE(LADSPA_HINT_BOUNDED_ABOVE);
    VALUE(LADSPA_HINT_TOGGLED);
    VALUE(LADSPA_HINT_INTEGER);
    VALUE(LADSPA_HINT_DEFAULT_MINIMUM);
    VALUE(LADSPA_HINT_DEFAULT_MAXIMUM);
    VALUE(LADSPA_HINT_DEFAULT_0);
    return instantiate != NULL || connect_port != NULL || run != NULL;
}
#elif defined(PROBE_LV2)
#ifdef INSTALLED
#include <lv2/core/lv2.h>
#else
#include "lv2_abi.h"
#endif
static LV2_Handle (*instantiate)(const LV2_Descriptor *, double, const char *,
                                 const LV2_Feature *const *);
static void (*connect_port)(LV2_Handle, uint32_t, void *);
static void (*run)(LV2_Handle, uint32_t);
int main(void)
{
    LV2_Descriptor descriptor = {0};
    instantiate = descriptor.instantiate;
    connect_port = descriptor.connect_port;
    run = descriptor.run;
    descriptor.cleanup = descriptor.activate;
    SIZE(LV2_Feature);
    FIELD(LV2_Feature, URI);
    FIELD(LV2_Feature, data);
    SIZE(LV2_Descriptor);
    FIELD(LV2_Descriptor, URI);
    FIELD(LV2_Descriptor, instantiate);
    FIELD(LV2_Descriptor, connect_port);
    FIELD(LV2_Descriptor, activate);
    FIELD(LV2_Descriptor, run);
    FIELD(LV2_Descriptor, deactivate);
    FIELD(LV2_Descriptor, cleanup);
    FIELD(LV2_Descriptor, extension_data);
    return instantiate != NULL || connect_port != NULL || run != NULL;
}
#else
#error "define PROBE_LADSPA or PROBE_LV2"
#endif
