// SPDX-License-Identifier: MIT
// add_noise on the CPU.
#pragma once

#include <cstdint>

#include "simd_path.hpp"

namespace certcal {

// out[b, d, e] = images[b, e] + sigma * z(seed, sample_ids[b], first_draw + d, e), one rounding. Same bits on every path.
void add_noise_cpu(const float* images,        // (batch, elements)
                   const int64_t* sample_ids,  // (batch,)
                   float sigma, uint64_t seed, int64_t batch, int64_t elements, uint32_t first_draw,
                   int64_t draws,
                   float* out,  // (batch, draws, elements)
                   int threads, SimdPath path);

}  // namespace certcal
