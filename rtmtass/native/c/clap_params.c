/* CLAP's parameters: what they are, their text, and the events that set them. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clap_plugin.h"

#define OFF "off"
#define ON "on"
#define NO_LIMIT "no limit"

uint32_t clap_find_control(clap_id id)
{
    uint32_t control = 0;
    while (control < RTMTASS_N_CONTROLS && plugin_controls[control].id != id)
        control++;
    return control;
}

static uint32_t CLAP_ABI count(const clap_plugin_t *clap)
{
    (void)clap;
    return RTMTASS_N_CONTROLS;
}

static bool CLAP_ABI get_info(const clap_plugin_t *clap, uint32_t index, clap_param_info_t *info)
{
    (void)clap;
    if (index >= RTMTASS_N_CONTROLS)
        return false;
    const plugin_control *control = &plugin_controls[index];
    memset(info, 0, sizeof *info);
    info->id = control->id;
    info->flags = CLAP_PARAM_IS_AUTOMATABLE;
    if (control->kind == CONTROL_BYPASS)
        info->flags |= CLAP_PARAM_IS_STEPPED | CLAP_PARAM_IS_BYPASS;
    snprintf(info->name, sizeof info->name, "%s", control->name);
    info->min_value = control->minimum;
    info->max_value = control->maximum;
    info->default_value = control->initial;
    return true;
}

static bool CLAP_ABI get_value(const clap_plugin_t *clap, clap_id id, double *value)
{
    uint32_t control = clap_find_control(id);
    if (control == RTMTASS_N_CONTROLS)
        return false;
    *value = plugin_get(instance_of(clap)->plugin, control);
    return true;
}

/* Text. Not by printf's %f or strtod, which depend on the locale that the host has set. */

static double clamp(const plugin_control *control, double value)
{
    return fmin(fmax(value, control->minimum), control->maximum);
}

/* The word for a value, or NULL if it is a number of dB. */
static const char *word_for(const plugin_control *control, long tenths)
{
    if (control->kind == CONTROL_BYPASS)
        return tenths > 0 ? ON : OFF;
    if (control->kind == CONTROL_GAIN && tenths <= lround(10 * control->minimum))
        return OFF;
    if (control->kind == CONTROL_STRENGTH && tenths >= lround(10 * control->maximum))
        return NO_LIMIT;
    return NULL;
}

static bool CLAP_ABI value_to_text(const clap_plugin_t *clap, clap_id id, double value,
                                   char *text, uint32_t capacity)
{
    (void)clap;
    uint32_t index = clap_find_control(id);
    if (index == RTMTASS_N_CONTROLS || isnan(value) || capacity == 0)
        return false;
    const plugin_control *control = &plugin_controls[index];
    long tenths = lround(10 * clamp(control, value));
    const char *word = word_for(control, tenths);
    const char *sign = tenths < 0 ? "-" : tenths > 0 && control->kind == CONTROL_GAIN ? "+" : "";
    int written = word != NULL ? snprintf(text, capacity, "%s", word)
                               : snprintf(text, capacity, "%s%ld.%ld dB", sign,
                                          labs(tenths) / 10, labs(tenths) % 10);
    return written >= 0 && (uint32_t)written < capacity;
}

static const char *skip_spaces(const char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    return text;
}

/* Skip a word in any case; NULL if the text doesn't begin with it. */
static const char *skip_word(const char *text, const char *word)
{
    for (; *word != '\0'; text++, word++) {
        if (tolower((unsigned char)*text) != *word)
            return NULL;
    }
    return text;
}

static bool is_word(const char *text, const char *word)
{
    const char *end = skip_word(text, word);
    return end != NULL && *skip_spaces(end) == '\0';
}

/* Read a number of dB, such as "-3.5 dB", "+6" or "2,5". */
static bool read_number(const char *text, double *value)
{
    double digits = 0.0;
    double divisor = 1.0;
    int n_digits = 0;
    bool is_negative = *text == '-';
    bool is_fraction = false;
    if (*text == '-' || *text == '+')
        text++;
    for (;; text++) {
        if (isdigit((unsigned char)*text)) {
            digits = 10.0 * digits + (*text - '0');
            divisor *= is_fraction ? 10.0 : 1.0;
            n_digits++;
        } else if ((*text == '.' || *text == ',') && !is_fraction) {
            is_fraction = true;
        } else {
            break;
        }
    }
    text = skip_spaces(text);
    const char *unit_end = skip_word(text, "db");
    if (unit_end != NULL)
        text = skip_spaces(unit_end);
    if (n_digits == 0 || n_digits > 15 || *text != '\0')
        return false;
    *value = (is_negative ? -digits : digits) / divisor;
    return true;
}

static bool CLAP_ABI text_to_value(const clap_plugin_t *clap, clap_id id, const char *text,
                                   double *value)
{
    (void)clap;
    uint32_t index = clap_find_control(id);
    if (index == RTMTASS_N_CONTROLS)
        return false;
    const plugin_control *control = &plugin_controls[index];
    text = skip_spaces(text);
    if (control->kind != CONTROL_STRENGTH && is_word(text, OFF)) {
        *value = control->minimum;
    } else if ((control->kind == CONTROL_BYPASS && is_word(text, ON)) ||
               (control->kind == CONTROL_STRENGTH && is_word(text, NO_LIMIT))) {
        *value = control->maximum;
    } else {
        double number;
        if (!read_number(text, &number))
            return false;
        *value = clamp(control, number);
    }
    return true;
}

/* Events. */

bool clap_is_ours(const clap_event_header_t *event)
{
    if (event->space_id != CLAP_CORE_EVENT_SPACE_ID || event->type != CLAP_EVENT_PARAM_VALUE ||
        event->size < sizeof(clap_event_param_value_t))
        return false;
    const clap_event_param_value_t *change = (const clap_event_param_value_t *)event;
    return clap_find_control(change->param_id) < RTMTASS_N_CONTROLS;
}

void clap_apply(clap_instance *instance, const clap_event_header_t *event)
{
    const clap_event_param_value_t *change = (const clap_event_param_value_t *)event;
    uint32_t control = clap_find_control(change->param_id);
    double value = change->value;
    if (plugin_controls[control].kind == CONTROL_BYPASS)
        value = trunc(value); /* as the specification says of stepped parameters */
    plugin_set(instance->plugin, control, value);
}

static void CLAP_ABI flush(const clap_plugin_t *clap, const clap_input_events_t *in,
                           const clap_output_events_t *out)
{
    (void)out;
    for (uint32_t i = 0; i < in->size(in); i++) {
        const clap_event_header_t *event = in->get(in, i);
        if (clap_is_ours(event))
            clap_apply(instance_of(clap), event);
    }
}

const clap_plugin_params_t clap_params = {count,         get_info, get_value, value_to_text,
                                          text_to_value, flush};
