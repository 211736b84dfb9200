/* The model that is built into a plugin: the bytes of a .rtm file. */
#ifndef RTMTASS_MODEL_BYTES_H
#define RTMTASS_MODEL_BYTES_H

#include <stddef.h>

extern const unsigned char rtmtass_model_bytes[];
extern const size_t rtmtass_model_size;

#endif
