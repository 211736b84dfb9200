/* Processes where the kernel kills for any system call, and counts allocations meanwhile.
 *
 *     sealed MODEL.rtm N_BLOCKS
 *
 * Exits with 0, or with 77 where the system has no seccomp.
 */
#define _GNU_SOURCE
#include "program.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Those of glibc under other names, so that ours take their place for all code in the program. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void __libc_free(void *memory);

static volatile unsigned n_calls;

void *malloc(size_t size)
{
    n_calls++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    n_calls++;
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    n_calls++;
    return __libc_realloc(old, size);
}

void free(void *memory)
{
    n_calls++;
    __libc_free(memory);
}

static void say(const char *text, size_t n)
{
    if (write(1, text, n) != (ssize_t)n)
        syscall(SYS_exit, 1);
}

int main(int argc, char **argv)
{
    stop_unless(argc == 3, "usage: sealed MODEL.rtm N_BLOCKS");
    static buffers memory = {.seed = 1};
    static const uint32_t rates[] = {16000, 44100, 48000};
    enum { N_OUTPUTS = 3, N_STREAMS = N_OUTPUTS * sizeof rates / sizeof *rates };
    rtmtass_stream *streams[N_STREAMS];
    rtmtass_model *model;
    float figures[2 * (RTMTASS_MAX_STEMS + 2)];
    size_t size;
    unsigned char *bytes = read_model(argv[1], &size);
    stop_unless(rtmtass_open(bytes, size, &model) == RTMTASS_OK, "open");
    for (int s = 0; s < N_STREAMS; s++)
        streams[s] = new_stream(model, rates[s / N_OUTPUTS], (uint32_t)(s % N_OUTPUTS));
    const int n_blocks = atoi(argv[2]);
    const unsigned before = n_calls;
    stop_unless(before > N_STREAMS, "allocations are counted");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
        return 77;
    /* From here on only read, write and the plain exit are allowed. */
    for (int s = 0; s < N_STREAMS; s++) {
        process_blocks(streams[s], &memory, n_blocks);
        rtmtass_set_gain(streams[s], 0, -6.0f);
        rtmtass_set_mute(streams[s], 1, 1);
        rtmtass_set_solo(streams[s], 2, 1);
        rtmtass_levels(streams[s], figures);
        rtmtass_factors(streams[s], figures);
        rtmtass_set_bypass(streams[s], 1);
        process_blocks(streams[s], &memory, n_blocks);
        rtmtass_reset(streams[s]);
        process_blocks(streams[s], &memory, n_blocks);
    }
    if (n_calls == before)
        say("nothing was allocated\n", 22);
    syscall(SYS_exit, n_calls != before);
}
