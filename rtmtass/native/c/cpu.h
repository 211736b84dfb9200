/* Which builds of the kernels this processor can run. */
#ifndef RTMTASS_CPU_H
#define RTMTASS_CPU_H

/* 1 if this processor and its system support the instructions of a variant, by name. */
int rtmtass_cpu_runs(const char *variant);

#endif
