// SPDX-License-Identifier: MIT
#include "ece.hpp"

#include <mutex>
#include <vector>

#include "../core/certify.hpp"
#include "../core/ece_solve.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kGrainRows = 1 << 15;
constexpr int64_t kChunkRows = 1 << 12;  // validated, then added, while still in cache

bool is_valid(double lower, double upper) {
  return (lower >= 0.0) & (lower <= upper) & (upper <= 1.0);
}

int64_t first_invalid(const double* lower, const double* upper, int64_t first, int64_t last) {
  bool valid = true;
  for (int64_t n = first; n < last; ++n) valid &= is_valid(lower[n], upper[n]);
  if (valid) return -1;
  int64_t n = first;
  while (is_valid(lower[n], upper[n])) ++n;
  return n;
}

// Runs add(first, last, local words) over chunks on private words and sums those up at the end, unless a row was invalid.
template <class Add>
int64_t accumulate(const double* lower, const double* upper, int64_t rows, int64_t* words,
                   int64_t num_words, int threads, const Add& add) {
  std::mutex mutex;
  int64_t invalid = -1;
  std::vector<int64_t> sum(static_cast<size_t>(num_words), 0);
  parallel_for(rows, kGrainRows, threads, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> local(static_cast<size_t>(num_words), 0);
    int64_t bad = -1;
    for (int64_t first = begin; first < end && bad < 0; first += kChunkRows) {
      const int64_t last = std::min(first + kChunkRows, end);
      bad = first_invalid(lower, upper, first, last);
      if (bad < 0) add(first, last, local.data());
    }
    const std::lock_guard<std::mutex> lock(mutex);
    if (bad >= 0 && (invalid < 0 || bad < invalid)) invalid = bad;
    for (size_t w = 0; w < local.size(); ++w) sum[w] += local[w];
  });
  if (invalid < 0) {
    for (size_t w = 0; w < sum.size(); ++w) words[w] += sum[w];
  }
  return invalid;
}

}  // namespace

int64_t ece_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                       int64_t rows, const Bins& bins, int64_t* table, int threads) {
  const auto add = [&](int64_t first, int64_t last, int64_t* local) {
    for (int64_t n = first; n < last; ++n) {
      int64_t* cell = local + cell_index(correct[n] != 0, bin_of(lower[n], bins),
                                         bin_of(upper[n], bins), bins.count);
      const int64_t low = fixed_floor(lower[n]);
      const int64_t high = fixed_ceil(upper[n]);
      cell[kCount] += 1;
      cell[kLowerHigh] += low >> kLowBits;
      cell[kLowerLow] += low & kLowMask;
      cell[kUpperHigh] += high >> kLowBits;
      cell[kUpperLow] += high & kLowMask;
    }
  };
  return accumulate(lower, upper, rows, table, table_words(bins.count), threads, add);
}

int64_t brier_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                         int64_t rows, int64_t* sums, int threads) {
  const auto add = [&](int64_t first, int64_t last, int64_t* local) {
    SplitSum sum{0, 0};
    for (int64_t n = first; n < last; ++n) sum.add(worst_square(correct[n] != 0, lower[n], upper[n]));
    local[0] += sum.high;
    local[1] += sum.low;
  };
  return accumulate(lower, upper, rows, sums, 2, threads, add);
}

void ece_worst_confidence_cpu(const uint8_t* correct, const double* lower, const double* upper,
                              int64_t rows, const Bins& bins, const int8_t* signs, double* out,
                              int threads) {
  const size_t m = static_cast<size_t>(bins.count);
  std::vector<int> first_plus(m), last_minus(m);
  int next = bins.count;
  for (int k = bins.count - 1; k >= 0; --k) {
    if (signs[k] > 0) next = k;
    first_plus[static_cast<size_t>(k)] = next;
  }
  int previous = -1;
  for (int k = 0; k < bins.count; ++k) {
    if (signs[k] < 0) previous = k;
    last_minus[static_cast<size_t>(k)] = previous;
  }
  parallel_for(rows, kGrainRows, threads, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      out[n] = worst_confidence(correct[n] != 0, lower[n], upper[n], bins, first_plus.data(),
                                last_minus.data());
    }
  });
}

}  // namespace certcal
