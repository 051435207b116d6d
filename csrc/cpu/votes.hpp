// SPDX-License-Identifier: MIT
// Vote counting and score histograms on the CPU. Stored is float, double, or half
// precision, which is widened a block at a time. The same integers on every path.
#pragma once

#include <cstdint>

#include "../core/half.hpp"
#include "simd_path.hpp"

namespace certcal {

// counts[b, k] += how many of the rows logits[b, :] have their largest entry at k (the lowest index wins ties).
// A row with NaN or infinity votes for nothing and is counted in faults; a row whose two largest entries are closer than
// its sample's margin is marked in near_ties and votes for nothing either, unless near_ties is null.
template <class Stored>
void count_votes_cpu(const Stored* logits,  // (batch, draws, classes)
                     int64_t batch, int64_t draws, int64_t classes,
                     const double* margins,  // (batch,), not read where near_ties is null
                     int64_t* counts,        // (batch, classes), added to
                     uint8_t* near_ties,     // (batch, draws) or null
                     int64_t* faults,        // (kFaultWords,), added to
                     int threads, SimdPath path = available_simd_paths().front());

// histogram[b, j] += how many softmax scores of class classes[b] (null: of each row's top class) fall in bin j of
// `bins` equal ones; score_sums[b] += their sum in two fixed-point words, rounded down.
template <class Stored>
void score_histogram_cpu(const Stored* logits,    // (batch, draws, num_classes)
                         const int64_t* classes,  // (batch,) or null
                         int64_t batch, int64_t draws, int64_t num_classes, int64_t bins,
                         int64_t* histogram,   // (batch, bins), added to
                         int64_t* score_sums,  // (batch, 2), added to
                         int64_t* faults,      // (kFaultWords,), added to
                         int threads, SimdPath path = available_simd_paths().front());

// Both in one pass over the logits: the same integers, and each faulty row counted once. Near ties vote for nothing and
// have a score. counts may be null.
template <class Stored>
void count_votes_and_scores_cpu(const Stored* logits,    // (batch, draws, num_classes)
                                const int64_t* classes,  // (batch,) or null
                                int64_t batch, int64_t draws, int64_t num_classes, int64_t bins,
                                const double* margins,  // (batch,), as above
                                int64_t* counts,        // (batch, num_classes), added to, or null
                                uint8_t* near_ties,     // (batch, draws) or null
                                int64_t* histogram,     // (batch, bins), added to
                                int64_t* score_sums,    // (batch, 2), added to
                                int64_t* faults,        // (kFaultWords,), added to
                                int threads, SimdPath path = available_simd_paths().front());

}  // namespace certcal
