// SPDX-License-Identifier: MIT
// Vote counting and score histograms on CUDA: the twin of cpu/votes.hpp, same integers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace certcal {

// All pointers are device pointers; outputs are added to. Checks the launch and returns its error; does not allocate and
// does not synchronise. Stored is float, double, Float16 or BFloat16.
//
// Margins are read from device memory when the kernel runs: those of samples grow as larger logits are seen, without a
// word to the host, and a captured launch reads what they are when it is replayed. They are not read without near_ties.
template <class Stored>
cudaError_t launch_count_votes(const Stored* logits,  // (batch, draws, classes)
                               int64_t batch, int64_t draws, int64_t classes,
                               const double* margins,  // (batch,), may be null without near_ties
                               int64_t* counts,        // (batch, classes)
                               uint8_t* near_ties,     // (batch, draws) or null
                               int64_t* faults,        // (kFaultWords,)
                               cudaStream_t stream);

template <class Stored>
cudaError_t launch_score_histogram(const Stored* logits,    // (batch, draws, num_classes)
                                   const int64_t* classes,  // (batch,) or null
                                   int64_t batch, int64_t draws, int64_t num_classes, int64_t bins,
                                   int64_t* histogram,   // (batch, bins)
                                   int64_t* score_sums,  // (batch, 2)
                                   int64_t* faults,      // (kFaultWords,)
                                   cudaStream_t stream);

// Both in one pass: see cpu/votes.hpp. counts and near_ties may be null.
template <class Stored>
cudaError_t launch_count_votes_and_scores(const Stored* logits, const int64_t* classes,
                                          int64_t batch, int64_t draws, int64_t num_classes,
                                          int64_t bins, const double* margins, int64_t* counts,
                                          uint8_t* near_ties, int64_t* histogram,
                                          int64_t* score_sums, int64_t* faults,
                                          cudaStream_t stream);

}  // namespace certcal
