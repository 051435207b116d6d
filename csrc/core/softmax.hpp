// SPDX-License-Identifier: MIT
// The softmax score of one class, with the same bits for every order of summation and on every device.
//
// exp is a polynomial of IEEE-fixed operations; each term exp(x_k - max) <= 1 becomes an integer multiple of 2^-32, and
// integers add in any order. A score therefore is a pure function of the logits, to within 2^-20 of the real softmax plus
// 2^-33 for each class (a term below half a unit counts as nothing); it is the base classifier that the certificate
// speaks of.
#pragma once

#include <cmath>
#include <cstdint>

#include "fixed_point.hpp"
#include "host_device.hpp"
#include "polynomials.hpp"
#include "scalar.hpp"

namespace certcal {

// 1 / log 2, and log 2 in two pieces, the first of which times a small integer is exact.
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kLog2High = 0x1.62e400p-1f;
inline constexpr float kLog2Low = 0x1.7f7d1cp-20f;

// Added to a small number, this rounds it to a whole one, which then stands in the last bits.
inline constexpr float kWholeNumbers = 0x1.8p+23f;

inline constexpr float kExpUnderflow = -23.0f;  // exp(-23) < 2^-33 rounds to no unit at all

// exp(x) / 2^n for n = floor(x / log 2 + 1/2).
CERTCAL_HD float exp_without_powers_of_two(float x, float n) {
  const float r = fused(n, -kLog2Low, fused(n, -kLog2High, x));  // log 2 in two pieces
  return fused(r * r, exp_tail(r), r + 1.0f);
}

// round(exp(x) * 2^32) for x <= 0, as a processor has it that converts as fast as it adds.
CERTCAL_HD uint64_t exp_units_by_doubles(float x) {
  if (!(x > kExpUnderflow)) return 0;
  const float n = floorf(fused(x, kLog2E, 0.5f));
  const float e = exp_without_powers_of_two(x, n);
  // n >= -34: scale by 2^(n + 35) * 2^-3, both exact, then round to the nearest unit.
  const double scale = static_cast<double>(uint64_t{1} << (static_cast<int>(n) + 35)) * 0.125;
  return static_cast<uint64_t>(static_cast<double>(e) * scale + 0.5);
}

// The same on a device that converts a quarter as fast as it adds, or less, and has hardly any doubles.
CERTCAL_HD uint64_t exp_units_by_shifts(float x) {
  const bool counts = x > kExpUnderflow;
  const float y = counts ? x : kExpUnderflow;
  const float turns = fused(y, kLog2E, 0.5f);
  // floor(turns), and as a whole number, by additions.
  const float rounded = turns + kWholeNumbers;
  const bool above = rounded - kWholeNumbers > turns;
  const float n = rounded - kWholeNumbers - (above ? 1.0f : 0.0f);
  const int32_t whole = static_cast<int32_t>(bits_of(rounded) - bits_of(kWholeNumbers)) - above;
  const float e = exp_without_powers_of_two(y, n);
  // e = mantissa * 2^(exponent - 23) is to be scaled by 2^(n + 32) and rounded to the nearest unit. n >= -34 and e > 1/2, so
  // that many units of 2^-28 are whole, and fewer than 2^62.
  const int32_t exponent = static_cast<int32_t>(bits_of(e) >> 23) - 127;
  const uint64_t mantissa = (bits_of(e) & 0x007FFFFFu) | 0x00800000u;
  const uint64_t units = ((mantissa << (exponent + whole + 37)) + (uint64_t{1} << 27)) >> 28;
  return counts ? units : 0;
}

CERTCAL_HD uint64_t exp_units(float x) {
#ifdef __CUDA_ARCH__
  return exp_units_by_shifts(x);
#else
  return exp_units_by_doubles(x);
#endif
}

// e_units / sum_units as a double in [0, 1]; sum_units > 0 since the largest logit has 2^32 units.
CERTCAL_HD double score_of(uint64_t e_units, uint64_t sum_units) {
  return static_cast<double>(e_units) / static_cast<double>(sum_units);
}

// Bin j of J equal bins: [j / J, (j + 1) / J), the last with 1.
CERTCAL_HD int score_bin(double score, int bins) {
  const int j = static_cast<int>(score * bins);
  return j < bins ? j : bins - 1;
}

}  // namespace certcal
