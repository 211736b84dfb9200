/* rtmtass: separates live sound into speech, music and noise.
 *
 *     rtmtass_model *model;
 *     rtmtass_stream *stream;
 *     rtmtass_config config = RTMTASS_CONFIG(48000, 1);
 *     rtmtass_open(bytes, size, &model);             // a .rtm file
 *     rtmtass_new_stream(model, &config, &stream);
 *     rtmtass_process(stream, &in, outs, n);         // any n; speech, music, noise
 *     rtmtass_free_stream(stream);
 *     rtmtass_close(model);
 *
 * A model may be shared by any number of streams and threads. A stream belongs to one thread
 * at a time, except for the rtmtass_set_ functions, which any thread may call at any time.
 * rtmtass_process allocates nothing, takes no lock, opens no file and makes no system call.
 * Samples are 32-bit floats; full scale is 1.0. Channels are planar: one pointer each.
 */
#ifndef RTMTASS_H
#define RTMTASS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(RTMTASS_PRIVATE) /* a plugin that contains the library keeps it to itself */
#if defined(_WIN32)
#define RTMTASS_API
#else
#define RTMTASS_API __attribute__((visibility("hidden")))
#endif
#elif defined(_WIN32) && defined(RTMTASS_BUILD)
#define RTMTASS_API __declspec(dllexport)
#elif defined(__GNUC__) || defined(__clang__)
#define RTMTASS_API __attribute__((visibility("default")))
#else
#define RTMTASS_API
#endif

/* Changes when a program compiled against an earlier header would no longer work. */
#define RTMTASS_ABI_VERSION 1

#define RTMTASS_MAX_CHANNELS 8
#define RTMTASS_MAX_STEMS 8

typedef struct rtmtass_model rtmtass_model;
typedef struct rtmtass_stream rtmtass_stream;

/* Result of most functions; rtmtass_error_text gives the words. */
typedef enum {
    RTMTASS_OK = 0,
    RTMTASS_ERROR_ARGUMENT = 1,      /* a pointer is NULL, or the config's size is unknown */
    RTMTASS_ERROR_MEMORY = 2,        /* the system has no memory left */
    RTMTASS_ERROR_NOT_A_MODEL = 3,   /* the bytes aren't a .rtm file */
    RTMTASS_ERROR_VERSION = 4,       /* the file was made by a newer version */
    RTMTASS_ERROR_DAMAGED = 5,       /* cut short, altered, or not a program we can run */
    RTMTASS_ERROR_SAMPLE_RATE = 6,   /* out of range: 2000 to 768000 Hz */
    RTMTASS_ERROR_CHANNELS = 7,      /* out of range: 1 to RTMTASS_MAX_CHANNELS */
    RTMTASS_ERROR_OUTPUT = 8,        /* unknown rtmtass_output */
    RTMTASS_ERROR_VARIANT = 9,       /* unknown, or this processor can't run it */
    RTMTASS_ERROR_STEM = 10,         /* no stem of that number */
    RTMTASS_ERROR_VALUE = 11         /* a gain or strength is NaN */
} rtmtass_result;

/* What rtmtass_process writes. */
typedef enum {
    RTMTASS_STEMS = 0,        /* every stem: stem 0's channels, then stem 1's, ... */
    RTMTASS_MIX = 1,          /* the stems mixed by their gains, channel by channel */
    RTMTASS_MIX_AND_STEMS = 2 /* the mix, then every stem before its gain */
} rtmtass_output;

typedef struct {
    uint32_t size;        /* sizeof(rtmtass_config): fields may be added at the end */
    uint32_t sample_rate; /* of input and output, in Hz */
    uint32_t channels;    /* of the input; linked: one set of masks for all */
    uint32_t output;      /* one of rtmtass_output */
} rtmtass_config;

#define RTMTASS_CONFIG(rate, channels) {sizeof(rtmtass_config), (rate), (channels), RTMTASS_STEMS}

/* RTMTASS_ABI_VERSION of the library; the release, such as "0.1.0"; a result in words. */
RTMTASS_API uint32_t rtmtass_abi_version(void);
RTMTASS_API const char *rtmtass_version(void);
RTMTASS_API const char *rtmtass_error_text(rtmtass_result result);

/* Open a model from the bytes of a .rtm file, which are checked and copied. */
RTMTASS_API rtmtass_result rtmtass_open(const void *bytes, size_t size, rtmtass_model **model);
/* As above, and run a given build of the kernels: "avx512vnni", "avx2", "neon" or "baseline". */
RTMTASS_API rtmtass_result rtmtass_open_variant(const void *bytes, size_t size,
                                                const char *variant, rtmtass_model **model);
/* Close a model after its streams; NULL is ignored. */
RTMTASS_API void rtmtass_close(rtmtass_model *model);

RTMTASS_API const char *rtmtass_model_name(const rtmtass_model *model);
RTMTASS_API uint32_t rtmtass_n_stems(const rtmtass_model *model);
/* Name of a stem, such as "speech"; NULL if there is none of that number. */
RTMTASS_API const char *rtmtass_stem_name(const rtmtass_model *model, uint32_t stem);
/* Rate in Hz at which the model works; a stream at this rate needs no resampling. */
RTMTASS_API uint32_t rtmtass_model_rate(const rtmtass_model *model);
/* Samples of the model's rate for which the network runs once. */
RTMTASS_API uint32_t rtmtass_hop(const rtmtass_model *model);
/* Name of the build of the kernels in use. */
RTMTASS_API const char *rtmtass_variant(const rtmtass_model *model);

RTMTASS_API rtmtass_result rtmtass_new_stream(const rtmtass_model *model,
                                              const rtmtass_config *config,
                                              rtmtass_stream **stream);
/* NULL is ignored. */
RTMTASS_API void rtmtass_free_stream(rtmtass_stream *stream);

/* Process n samples of every channel; n may be anything, 0 included, and may change.
 *
 * in: `channels` pointers to n samples each. NaN and Inf are taken for silence, and samples
 *     beyond +-1e9 are clipped to it.
 * out: n samples each for rtmtass_outputs(stream) pointers. The output is rtmtass_latency
 *     samples late. The mix may be written over the input; stems must not overlap it.
 */
RTMTASS_API void rtmtass_process(rtmtass_stream *stream, const float *const *in,
                                 float *const *out, size_t n);

/* Pointers that rtmtass_process writes to: channels, for the mix and for every stem. */
RTMTASS_API uint32_t rtmtass_outputs(const rtmtass_stream *stream);
/* Offset of the output against the input, in samples; it never changes. */
RTMTASS_API uint32_t rtmtass_latency(const rtmtass_stream *stream);
/* Return to silence before the first sample; the settings stay. */
RTMTASS_API void rtmtass_reset(rtmtass_stream *stream);

/* Settings of the mix. The output follows without a click within 40 ms. */

/* Gain of a stem in dB: 0 at first, up to +20; -60 and less mute it. */
RTMTASS_API rtmtass_result rtmtass_set_gain(rtmtass_stream *stream, uint32_t stem, float gain_db);
/* How far a stem may lie below the loudest, in dB: INFINITY at first; 0 gives all its gain. */
RTMTASS_API rtmtass_result rtmtass_set_strength(rtmtass_stream *stream, float strength_db);
/* 1: silence a stem, whatever the strength; 0, as at first: don't. */
RTMTASS_API rtmtass_result rtmtass_set_mute(rtmtass_stream *stream, uint32_t stem, int is_muted);
/* While any stem is soloed, the others are silent. */
RTMTASS_API rtmtass_result rtmtass_set_solo(rtmtass_stream *stream, uint32_t stem, int is_soloed);
/* 1: output the input instead, unchanged and as late as the mix. */
RTMTASS_API void rtmtass_set_bypass(rtmtass_stream *stream, int is_bypassed);

/* For displays. Call these from the thread that processes. */

/* Write the meters of the mix as amplitudes, pairs of RMS and peak: of every stem after its
 * gain, of the input, of the output; 2 * (stems + 2) floats. Powers and peaks fall with a time
 * constant of 60 ms. All stay 0 for RTMTASS_STEMS. */
RTMTASS_API rtmtass_result rtmtass_levels(const rtmtass_stream *stream, float *levels);
/* Write the factor of every stem that the settings give, without ramps and bypass. */
RTMTASS_API rtmtass_result rtmtass_factors(rtmtass_stream *stream, float *factors);
/* Hops that were separated, since the start or the last reset. */
RTMTASS_API uint32_t rtmtass_hops(const rtmtass_stream *stream);
/* The stems of the last hop at the model's rate, before their gains: stem after stem
 * rtmtass_hop samples, each of all channels. Changes with the next hop; silence before any. */
RTMTASS_API const float *rtmtass_last_stems(const rtmtass_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
