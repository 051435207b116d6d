// SPDX-License-Identifier: MIT
// add_noise on the CPU.
#pragma once

#include <cstdint>

#include "../core/half.hpp"
#include "simd_path.hpp"

namespace certcal {

// out[b, d, e] = images[b, e] + sigma * z(seed, sample_ids[b], first_draw + d, e), one rounding; in half precision a second
// one, to nearest even. Value: float, Float16 or BFloat16. Same bits on every path.
//
// `channels`, a divisor of `elements`, says how both arrays lie in memory: element e = c * (elements / channels) + p is at
// p * channels + c. 1 is row-major order; C is channels_last order of images (C, H, W). The numbers are the same.
template <class Value>
void add_noise_cpu(const float* images,        // (batch, elements)
                   const int64_t* sample_ids,  // (batch,)
                   float sigma, uint64_t seed, int64_t batch, int64_t elements, uint32_t first_draw,
                   int64_t draws,
                   Value* out,  // (batch, draws, elements)
                   int threads, SimdPath path, int64_t channels = 1);

}  // namespace certcal
