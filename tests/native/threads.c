/* Turns a stream's settings in one thread while another processes, and a second stream runs.
 *
 *     threads MODEL.rtm N_BLOCKS
 */
#include "program.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct {
    rtmtass_stream *stream;
    int n_blocks;
    atomic_int is_done;
} job;

static void *process(void *argument)
{
    job *job = argument;
    buffers *memory = calloc(1, sizeof *memory);
    stop_unless(memory != NULL, "memory");
    memory->seed = 1;
    process_blocks(job->stream, memory, job->n_blocks);
    free(memory);
    atomic_store(&job->is_done, 1);
    return NULL;
}

static void *turn(void *argument)
{
    job *job = argument;
    uint32_t seed = 1;
    while (!atomic_load(&job->is_done)) {
        rtmtass_set_gain(job->stream, draw(&seed) % 3, (float)(draw(&seed) % 80) - 60.0f);
        rtmtass_set_strength(job->stream, (float)(draw(&seed) % 40));
        rtmtass_set_mute(job->stream, draw(&seed) % 3, (int)(draw(&seed) % 2));
        rtmtass_set_solo(job->stream, draw(&seed) % 3, (int)(draw(&seed) % 2));
        rtmtass_set_bypass(job->stream, (int)(draw(&seed) % 2));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    stop_unless(argc == 3, "usage: threads MODEL.rtm N_BLOCKS");
    size_t size;
    unsigned char *bytes = read_model(argv[1], &size);
    rtmtass_model *model;
    stop_unless(rtmtass_open(bytes, size, &model) == RTMTASS_OK, "open");
    free(bytes);
    job jobs[2] = {{.stream = new_stream(model, 48000, RTMTASS_MIX), .n_blocks = atoi(argv[2])},
                   {.stream = new_stream(model, 16000, RTMTASS_MIX), .n_blocks = atoi(argv[2])}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        stop_unless(!pthread_create(&threads[i], NULL, i % 2 ? turn : process, &jobs[i / 2]),
                    "a thread");
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++)
        rtmtass_free_stream(jobs[i].stream);
    rtmtass_close(model);
    puts("done");
    return 0;
}
