// SPDX-License-Identifier: MIT
// Functions marked so are compiled for three levels of x86-64, and the loader picks the one that the processor has.
// No level changes a bit of a result: contraction is off, and what they share are IEEE-fixed operations. It matters most
// for fma, which the baseline calls as a library function.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define CERTCAL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CERTCAL_CLONES
#endif
