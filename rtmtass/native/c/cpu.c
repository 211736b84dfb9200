/* Detects the instructions that the variants of the kernels need. */
#include "cpu.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* Intel, Software Developer's Manual, vol. 1, 14.3 and 15.2. The builds are for the levels
 * x86-64-v3 and x86-64-v4 of the System V ABI, section 3.1.1, the latter with VNNI. */
enum {
    FMA = 1 << 12, MOVBE = 1 << 22, OSXSAVE = 1 << 27, F16C = 1 << 29,        /* leaf 1, ecx */
    BMI1 = 1 << 3, AVX2 = 1 << 5, BMI2 = 1 << 8, AVX512F = 1 << 16,           /* leaf 7, ebx */
    AVX512DQ = 1 << 17, AVX512CD = 1 << 28, AVX512BW = 1 << 30,
    AVX512VNNI = 1 << 11,                                                     /* leaf 7, ecx */
    LZCNT = 1 << 5,                                                           /* 0x80000001, ecx */
    YMM_STATE = 0x06, ZMM_STATE = 0xe6                                        /* xcr0 */
};
static const uint32_t AVX512VL = UINT32_C(1) << 31; /* leaf 7, ebx */

static int has(uint32_t bits, uint32_t wanted)
{
    return (bits & wanted) == wanted;
}

static uint32_t saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int runs_avx2(uint32_t state)
{
    uint32_t a, b, c, d;
    if (!has(state, YMM_STATE) || !__get_cpuid(1, &a, &b, &c, &d) || !has(c, FMA | F16C | MOVBE))
        return 0;
    if (!__get_cpuid(0x80000001u, &a, &b, &c, &d) || !has(c, LZCNT))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && has(b, AVX2 | BMI1 | BMI2);
}

static int runs_avx512vnni(uint32_t state)
{
    uint32_t a, b, c, d;
    if (!has(state, ZMM_STATE) || !runs_avx2(state) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return has(b, AVX512F | AVX512DQ | AVX512CD | AVX512BW | AVX512VL) && has(c, AVX512VNNI);
}

int rtmtass_cpu_runs(const char *variant)
{
    uint32_t a, b, c, d;
    if (!strcmp(variant, "baseline"))
        return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, OSXSAVE))
        return 0;
    if (!strcmp(variant, "avx2"))
        return runs_avx2(saved_state());
    return !strcmp(variant, "avx512vnni") && runs_avx512vnni(saved_state());
}

#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

enum { ASIMDDP = 1 << 20 }; /* Linux, arch/arm64: HWCAP_ASIMDDP */

int rtmtass_cpu_runs(const char *variant)
{
    if (!strcmp(variant, "neon"))
        return (getauxval(AT_HWCAP) & ASIMDDP) != 0;
    return !strcmp(variant, "baseline");
}

#else

int rtmtass_cpu_runs(const char *variant)
{
    return variant != NULL; /* one build, for every processor of this system */
}

#endif
