// SPDX-License-Identifier: MIT
// One macro: what is marked with it compiles for the host and, under nvcc, for the device too.
#pragma once

#ifdef __CUDACC__
#define CERTCAL_HD __host__ __device__ __forceinline__
#else
// Always inlined: the SIMD paths compile these headers with wider instruction sets, and no such copy may reach the linker.
#define CERTCAL_HD inline __attribute__((always_inline))
#endif
