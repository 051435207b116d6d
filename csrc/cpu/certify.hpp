// SPDX-License-Identifier: MIT
// The fused bound on the CPU: samples and radii in, Brier sums and ECE tables of every radius out, in one pass.
#pragma once

#include <cstdint>

#include "../core/ece_table.hpp"

namespace certcal {

// Samples that share an interval form a group (votes: samples with the same count), so the samples are first counted per
// (right or wrong, group), O(N), and then each radius costs one bound per group, whatever N is.
// Group indices outside [0, groups) must have been refused before.
void certify_cpu(const int64_t* group,    // (samples,)
                 const uint8_t* correct,  // (samples,)
                 int64_t samples,
                 const double* confidence,    // (groups,) the unperturbed point estimate
                 const double* probit_lower,  // (groups,)
                 const double* probit_upper,  // (groups,)
                 int64_t groups,
                 const double* shifts,  // (radii,) radius / sigma
                 int64_t radii, const Bins& bins,
                 int64_t* tables,  // (radii, 2, M, M, kCellWords), added to
                 int64_t* clean,   // (radii, M, kCleanWords), added to
                 int64_t* brier,   // (radii, kBrierWords), added to
                 int threads);

// lower, upper: the interval of each row under a shift, rounded outward.
void shift_interval_cpu(const double* probit_lower, const double* probit_upper, double shift,
                        int64_t rows, double* lower, double* upper, int threads);

// What a radius comes to, from the sums that certify wrote. Errors are rounded up; all are 0 where nothing is certified.
enum SummaryColumn : int {
  kCertifiedRows = 0,
  kRightRows = 1,
  kCleanEce = 2,
  kCertifiedEce = 3,
  kCleanBrier = 4,
  kCertifiedBrier = 5,
  kSummaryColumns = 6
};

void summarize_cpu(const int64_t* tables, const int64_t* clean, const int64_t* brier, int64_t radii,
                   const Bins& bins,
                   double* summary,  // (radii, kSummaryColumns)
                   int threads);

}  // namespace certcal
