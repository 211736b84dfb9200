/* The part of the LADSPA 1.1 interface that our plugins use, so that no header need be installed.
 *
 * Written from the specification (ladspa.org); names, order and types are those of <ladspa.h>,
 * which a test compares with these where it is installed.
 */
#ifndef RTMTASS_LADSPA_ABI_H
#define RTMTASS_LADSPA_ABI_H

typedef float LADSPA_Data;
typedef int LADSPA_Properties;
typedef int LADSPA_PortDescriptor;
typedef int LADSPA_PortRangeHintDescriptor;
typedef void *LADSPA_Handle;

#define LADSPA_PROPERTY_HARD_RT_CAPABLE 0x4

#define LADSPA_PORT_INPUT 0x1
#define LADSPA_PORT_OUTPUT 0x2
#define LADSPA_PORT_CONTROL 0x4
#define LADSPA_PORT_AUDIO 0x8

#define LADSPA_HINT_BOUNDED_BELOW 0x1
#define LADSPA_HINT_BOUNDED_ABOVE 0x2
#define LADSPA_HINT_TOGGLED 0x4
#define LADSPA_HINT_INTEGER 0x20
#define LADSPA_HINT_DEFAULT_MINIMUM 0x40
#define LADSPA_HINT_DEFAULT_MAXIMUM 0x140
#define LADSPA_HINT_DEFAULT_0 0x200

typedef struct {
    LADSPA_PortRangeHintDescriptor HintDescriptor;
    LADSPA_Data LowerBound;
    LADSPA_Data UpperBound;
} LADSPA_PortRangeHint;

typedef struct LADSPA_Descriptor {
    unsigned long UniqueID; /* below 0x1000000 */
    const char *Label;
    LADSPA_Properties Properties;
    const char *Name;
    const char *Maker;
    const char *Copyright;
    unsigned long PortCount;
    const LADSPA_PortDescriptor *PortDescriptors;
    const char *const *PortNames;
    const LADSPA_PortRangeHint *PortRangeHints;
    void *ImplementationData;
    LADSPA_Handle (*instantiate)(const struct LADSPA_Descriptor *descriptor,
                                 unsigned long sample_rate);
    void (*connect_port)(LADSPA_Handle instance, unsigned long port, LADSPA_Data *location);
    void (*activate)(LADSPA_Handle instance);
    void (*run)(LADSPA_Handle instance, unsigned long n);
    void (*run_adding)(LADSPA_Handle instance, unsigned long n);
    void (*set_run_adding_gain)(LADSPA_Handle instance, LADSPA_Data gain);
    void (*deactivate)(LADSPA_Handle instance);
    void (*cleanup)(LADSPA_Handle instance);
} LADSPA_Descriptor;

#endif
