// SPDX-License-Identifier: MIT
// Confidences in 64-bit fixed point, so that a sum does not depend on the order of its terms.
//
// x in [0, 1] becomes the integer floor(x * 2^52) or ceil(x * 2^52): which of the two is always chosen so that the
// certificate it enters can only become looser. The scaling is by a power of two and therefore exact in a double.
// One int64 of such integers would overflow after 2^11 samples, so a sum lives in two words that each add by themselves:
// the low 26 bits and the rest. Both are safe for 2^36 samples (kMaxRows).
#pragma once

#include <cstdint>

#include "host_device.hpp"

namespace certcal {

inline constexpr int kFractionBits = 52;
inline constexpr int64_t kOne = int64_t{1} << kFractionBits;
inline constexpr int kLowBits = 26;
inline constexpr int64_t kLowMask = (int64_t{1} << kLowBits) - 1;
inline constexpr int64_t kMaxRows = int64_t{1} << 36;

CERTCAL_HD int64_t fixed_floor(double x) {
  return static_cast<int64_t>(x * static_cast<double>(kOne));  // x >= 0: truncation is floor
}

CERTCAL_HD int64_t fixed_ceil(double x) {
  const double scaled = x * static_cast<double>(kOne);
  const int64_t truncated = static_cast<int64_t>(scaled);
  return truncated + (static_cast<double>(truncated) < scaled ? 1 : 0);
}

// ceil(q * q / 2^52) for q in [0, 2^52]: the square of a fixed-point number, rounded up. The product has at most 105
// bits; its two 64-bit halves are put together by shifts, which host and device share.
CERTCAL_HD int64_t fixed_square_ceil(int64_t q) {
  // q = h * 2^26 + l, so q^2 = h^2 * 2^52 + 2 h l * 2^26 + l^2, and only the last two terms have a fraction.
  const uint64_t h = static_cast<uint64_t>(q) >> kLowBits;
  const uint64_t l = static_cast<uint64_t>(q) & static_cast<uint64_t>(kLowMask);
  const uint64_t cross = 2 * h * l;                                                       // < 2^54
  const uint64_t rest = ((cross & static_cast<uint64_t>(kLowMask)) << kLowBits) + l * l;  // < 2^53
  const uint64_t fraction_mask = static_cast<uint64_t>(kOne) - 1;
  const uint64_t whole = h * h + (cross >> kLowBits) + (rest >> kFractionBits);
  return static_cast<int64_t>(whole + ((rest & fraction_mask) != 0 ? 1 : 0));
}

struct SplitSum {
  int64_t high, low;

  CERTCAL_HD void add(int64_t q, int64_t times = 1) {
    high += (q >> kLowBits) * times;
    low += (q & kLowMask) * times;
  }
};

// The same into two words that lie side by side in a table.
CERTCAL_HD void add_words(int64_t* words, int64_t q, int64_t times) {
  SplitSum sum{words[0], words[1]};
  sum.add(q, times);
  words[0] = sum.high;
  words[1] = sum.low;
}

}  // namespace certcal
