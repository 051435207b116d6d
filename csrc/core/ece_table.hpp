// SPDX-License-Identifier: MIT
// The table from which the certified ECE is computed: for each (correct, bin of lower, bin of upper) how many samples
// there are, and the sums of their lower and upper bounds. Tables add, so batches, threads, devices and machines merge
// by summation (design: "The exact certified ECE").
#pragma once

#include <cstdint>

#include "fixed_point.hpp"
#include "host_device.hpp"

namespace certcal {

// The words of one cell.
enum CellWord : int {
  kCount = 0,
  kLowerHigh = 1,
  kLowerLow = 2,
  kUpperHigh = 3,
  kUpperLow = 4,
  kCellWords = 5
};

// M bins over [0, 1]. closed_left == false: bin m is (edges[m], edges[m+1]] and the first also holds 0.
// closed_left == true: bin m is [edges[m], edges[m+1]) and the last also holds 1.
struct Bins {
  const double* edges;  // (count + 1,) strictly increasing from 0 to 1
  int count;
  bool closed_left;
  bool uniform;  // edges differ from m / count by rounding only: the bin can be guessed
};

// Whether the bins are the equal-width ones, so that trunc(x * count) is off by at most one.
CERTCAL_HD bool edges_are_uniform(const double* edges, int count) {
  for (int m = 0; m <= count; ++m) {
    const double distance = edges[m] * count - m;
    if (distance > 1e-9 || distance < -1e-9) return false;
  }
  return true;
}

// The bin of x in [0, 1]. The comparison is with the very doubles in `edges`, whatever the guess was.
CERTCAL_HD int bin_of(double x, const Bins& bins) {
  const int last = bins.count - 1;
  if (bins.uniform) {
    int m = static_cast<int>(x * bins.count);
    m = m > last ? last : m;
    if (bins.closed_left) {
      m -= (x < bins.edges[m]);
      m += (m < last) & (x >= bins.edges[m + 1]);
    } else {
      m -= (m > 0) & (x <= bins.edges[m]);
      m += (x > bins.edges[m + 1]);
    }
    return m;
  }
  int below =
      0;  // the number of interior edges that lie below x (or at it, where bins are closed on the left)
  int span = last;
  while (span > 0) {
    const int half = span / 2;
    const double edge = bins.edges[below + half + 1];
    const bool past = bins.closed_left ? x >= edge : x > edge;
    below = past ? below + half + 1 : below;
    span = past ? span - half - 1 : half;
  }
  return below;
}

CERTCAL_HD int64_t cell_index(int correct, int bin_lower, int bin_upper, int bins) {
  return ((static_cast<int64_t>(correct) * bins + bin_lower) * bins + bin_upper) * kCellWords;
}

CERTCAL_HD int64_t table_words(int bins) { return int64_t{2} * bins * bins * kCellWords; }

}  // namespace certcal
