// SPDX-License-Identifier: MIT
// add_noise on CUDA: the twin of cpu/noise.hpp, same bits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../core/half.hpp"

namespace certcal {

// Value: float, Float16 or BFloat16; channels as in cpu/noise.hpp. All pointers are device pointers. Checks the launch and
// returns its error; does not allocate and does not synchronise.
//
// draw_offset: one word or null. It is read when the kernel runs and added to first_draw, so that a launch captured in a
// graph can be replayed for other draws. Nobody can check it before: where the draws then leave [0, 2^32), which the
// counter would silently take for others, all of `out` is NaN.
template <class Value>
cudaError_t launch_add_noise(const float* images,        // (batch, elements)
                             const int64_t* sample_ids,  // (batch,)
                             float sigma, uint64_t seed, int64_t batch, int64_t elements,
                             uint32_t first_draw, int64_t draws,
                             Value* out,  // (batch, draws, elements)
                             cudaStream_t stream, int64_t channels = 1,
                             const int64_t* draw_offset = nullptr);

}  // namespace certcal
