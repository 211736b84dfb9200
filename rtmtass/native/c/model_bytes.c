/* Builds the .rtm file that RTMTASS_MODEL_FILE names into a plugin.
 *
 * A compiler without C23's #embed, such as GCC before 15 and Clang before 19, needs the bytes
 * as decimal numbers with commas in the file that RTMTASS_MODEL_NUMBERS names.
 */
#include "model_bytes.h"

#ifndef RTMTASS_MODEL_NUMBERS
#pragma clang diagnostic ignored "-Wc23-extensions" /* the rest is C11 */
#endif

_Alignas(64) const unsigned char rtmtass_model_bytes[] = {
#ifdef RTMTASS_MODEL_NUMBERS
#include RTMTASS_MODEL_NUMBERS
#else
#embed RTMTASS_MODEL_FILE
#endif
};

const size_t rtmtass_model_size = sizeof rtmtass_model_bytes;
