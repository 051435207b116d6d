// SPDX-License-Identifier: MIT
// Fixed-point sums as one wide integer, and their mean as a double (host only).
#pragma once

#include <cmath>
#include <cstdint>

#include "fixed_point.hpp"

namespace certcal {

__extension__ typedef __int128 WideInt;

inline WideInt join_words(int64_t high, int64_t low) {
  return (static_cast<WideInt>(high) << kLowBits) + low;
}

// The smallest double q with q >= total / (2^52 rows), where that is at most 1; 0 <= total, 0 < rows <= kMaxRows.
inline double mean_rounded_up(WideInt total, int64_t rows) {
  if (total <= 0) return 0.0;
  if (total >= static_cast<WideInt>(rows) * kOne) return 1.0;
  // Whether q is large enough, in integers: q = m 2^(e - 53), so q rows 2^52 >= total says m rows >= total 2^(1 - e).
  const auto reaches = [=](double q) {
    int e;
    const auto m = static_cast<int64_t>(std::ldexp(std::frexp(q, &e), 53));
    return static_cast<WideInt>(m) * rows >= total << (1 - e);
  };
  double q = static_cast<double>(total) / static_cast<double>(kOne) / static_cast<double>(rows);
  while (!reaches(q)) q = std::nextafter(q, 2.0);
  for (double below = std::nextafter(q, 0.0); reaches(below); below = std::nextafter(q, 0.0)) {
    q = below;
  }
  return q;
}

}  // namespace certcal
