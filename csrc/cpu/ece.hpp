// SPDX-License-Identifier: MIT
// Passes over (correct, lower, upper) on the CPU. A row is valid when 0 <= lower <= upper <= 1, which NaN is not.
#pragma once

#include <cstdint>

#include "../core/ece_table.hpp"

namespace certcal {

// Adds valid rows to a table of table_words(bins.count) integers. Returns -1, or the first row that is
// not valid, and then adds nothing.
int64_t ece_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                       int64_t rows, const Bins& bins, int64_t* table, int threads);

// Adds the worst squared errors to sums[0], sums[1] (two fixed-point words). Returns as ece_update_cpu.
int64_t brier_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                         int64_t rows, int64_t* sums, int threads);

// out[n]: the confidence of row n that is worst for the given signs of the bins.
void ece_worst_confidence_cpu(const uint8_t* correct, const double* lower, const double* upper,
                              int64_t rows, const Bins& bins, const int8_t* signs, double* out,
                              int threads);

}  // namespace certcal
