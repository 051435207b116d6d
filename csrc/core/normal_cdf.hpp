// SPDX-License-Identifier: MIT
// The normal distribution function Phi as a bound: below and above, to the last bit the same on every device.
//
// Phi is not computed by hand nor by a device's own library (two libraries differ in the last bit, and then tables made on
// a CPU and on a GPU would too). It is read from a table of Taylor coefficients at steps of 1/16, written with mpmath by
// tools/make_coefficients.py, and evaluated with fma only.
//
// Error: the truncated series is within 2^-54 of Phi (printed by the tool), its evaluation adds less than 2^-51, and the
// rounding of the argument, |x| <= 8.5, moves Phi by less than 2^-51. kCdfSlack = 2^-48 covers their sum with room, and
// Phi(-8.5) < 2^-56 covers the arguments outside of the table.
#pragma once

#include <cmath>

#include "host_device.hpp"

namespace certcal {

inline constexpr int kCdfTerms = 10;  // normal_cdf spells them out
inline constexpr int kCdfStepsPerUnit = 16;
inline constexpr double kCdfLimit = 8.5;
inline constexpr int kCdfRows = 2 * 136 + 1;
inline constexpr double kCdfSlack = 0x1p-48;

// Phi to within kCdfSlack / 2 at x, which is moved into the table's range (NaN to its lower end, so that no row outside is read).
CERTCAL_HD double normal_cdf(double x, const double* table) {
  const double inside = x > -kCdfLimit ? (x < kCdfLimit ? x : kCdfLimit) : -kCdfLimit;
  const double scaled = inside * kCdfStepsPerUnit;
  const double nearest = floor(scaled + 0.5);
  const double offset = (scaled - nearest) * (1.0 / kCdfStepsPerUnit);  // both steps are exact
  const double* row = table + (static_cast<int>(nearest) + (kCdfRows - 1) / 2) * kCdfTerms;
  // Estrin's scheme: a third of the latency of Horner's, and most of the time is latency.
  const double square = offset * offset;
  const double low = fma(fma(row[3], offset, row[2]), square, fma(row[1], offset, row[0]));
  const double high = fma(fma(row[7], offset, row[6]), square, fma(row[5], offset, row[4]));
  const double top = fma(row[9], offset, row[8]);
  const double fourth = square * square;
  return fma(fma(top, fourth, high), fourth, low);
}

CERTCAL_HD double normal_cdf_below(double x, const double* table) {
  const double p = normal_cdf(x, table) - kCdfSlack;
  return (x < -kCdfLimit) | (p < 0.0) ? 0.0 : p;
}

CERTCAL_HD double normal_cdf_above(double x, const double* table) {
  const double p = normal_cdf(x, table) + kCdfSlack;
  return !(x <= kCdfLimit) | (p > 1.0) ? 1.0 : p;  // NaN gives 1: it bounds nothing
}

}  // namespace certcal
