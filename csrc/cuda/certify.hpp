// SPDX-License-Identifier: MIT
// The fused bound on CUDA: the twin of cpu/certify.hpp, same integers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../core/ece_table.hpp"

namespace certcal {

// All pointers are device pointers, bins.edges too; outputs are added to. Checks the launches and returns the first error;
// does not allocate and does not synchronise.
cudaError_t launch_certify(const int64_t* group,    // (samples,) each in [0, groups)
                           const uint8_t* correct,  // (samples,)
                           int64_t samples,
                           const double* confidence,    // (groups,)
                           const double* probit_lower,  // (groups,)
                           const double* probit_upper,  // (groups,)
                           int64_t groups,
                           const double* shifts,  // (radii,)
                           int64_t radii, const Bins& bins,
                           int64_t* group_counts,  // (groups, 2) workspace, zeros on entry
                           int64_t* tables,        // (radii, 2, M, M, kCellWords)
                           int64_t* clean,         // (radii, M, kCleanWords)
                           int64_t* brier,         // (radii, kBrierWords)
                           cudaStream_t stream);

}  // namespace certcal
