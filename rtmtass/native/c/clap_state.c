/* CLAP's state: the parameters' values, as a host saves them in a project.
 *
 * Little-endian: 8 bytes of magic, uint32 version, uint32 number of values, then for each a
 * uint32 parameter id and a 64-bit float. Ids that the model lacks are skipped; parameters
 * without a value take their default.
 */
#include <math.h>
#include <string.h>

#include "clap_plugin.h"

#define VERSION 1
#define HEADER_BYTES 16
#define VALUE_BYTES 12
#define MAX_VALUES 64

static const char MAGIC[8] = {'r', 't', 'm', 't', 'a', 's', 's', 'P'};

static void put(unsigned char *bytes, uint64_t word, int size)
{
    for (int i = 0; i < size; i++)
        bytes[i] = (unsigned char)(word >> 8 * i);
}

static uint64_t get(const unsigned char *bytes, int size)
{
    uint64_t word = 0;
    for (int i = 0; i < size; i++)
        word |= (uint64_t)bytes[i] << 8 * i;
    return word;
}

/* A stream may take or give fewer bytes than asked for, 0 at its end, -1 on an error. */
static bool write_all(const clap_ostream_t *stream, const unsigned char *bytes, uint64_t size)
{
    while (size > 0) {
        int64_t written = stream->write(stream, bytes, size);
        if (written <= 0 || (uint64_t)written > size)
            return false;
        bytes += written;
        size -= (uint64_t)written;
    }
    return true;
}

static bool read_all(const clap_istream_t *stream, unsigned char *bytes, uint64_t size)
{
    while (size > 0) {
        int64_t n = stream->read(stream, bytes, size);
        if (n <= 0 || (uint64_t)n > size)
            return false;
        bytes += n;
        size -= (uint64_t)n;
    }
    return true;
}

static bool CLAP_ABI save(const clap_plugin_t *clap, const clap_ostream_t *stream)
{
    unsigned char bytes[HEADER_BYTES + RTMTASS_N_CONTROLS * VALUE_BYTES];
    memcpy(bytes, MAGIC, sizeof MAGIC);
    put(bytes + 8, VERSION, 4);
    put(bytes + 12, RTMTASS_N_CONTROLS, 4);
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++) {
        unsigned char *at = bytes + HEADER_BYTES + control * VALUE_BYTES;
        double value = plugin_get(instance_of(clap)->plugin, control);
        uint64_t word;
        memcpy(&word, &value, sizeof word);
        put(at, plugin_controls[control].id, 4);
        put(at + 4, word, 8);
    }
    return write_all(stream, bytes, sizeof bytes);
}

/* Read a state into `values`; false if it isn't one, is cut short or of a newer version. */
static bool read_values(const clap_istream_t *stream, double values[RTMTASS_N_CONTROLS])
{
    unsigned char header[HEADER_BYTES];
    if (!read_all(stream, header, sizeof header) || memcmp(header, MAGIC, sizeof MAGIC) != 0 ||
        get(header + 8, 4) != VERSION || get(header + 12, 4) > MAX_VALUES)
        return false;
    for (uint64_t left = get(header + 12, 4); left > 0; left--) {
        unsigned char bytes[VALUE_BYTES];
        if (!read_all(stream, bytes, sizeof bytes))
            return false;
        uint64_t word = get(bytes + 4, 8);
        double value;
        memcpy(&value, &word, sizeof value);
        if (!isfinite(value))
            return false;
        uint32_t control = clap_find_control((clap_id)get(bytes, 4));
        if (control < RTMTASS_N_CONTROLS)
            values[control] = value;
    }
    return true;
}

static bool CLAP_ABI load(const clap_plugin_t *clap, const clap_istream_t *stream)
{
    clap_instance *instance = instance_of(clap);
    double values[RTMTASS_N_CONTROLS];
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++)
        values[control] = plugin_controls[control].initial;
    if (!read_values(stream, values))
        return false;
    for (uint32_t control = 0; control < RTMTASS_N_CONTROLS; control++)
        plugin_set(instance->plugin, control, values[control]);
    if (instance->host_params != NULL)
        instance->host_params->rescan(instance->host, CLAP_PARAM_RESCAN_VALUES);
    return true;
}

const clap_plugin_state_t clap_state = {save, load};
