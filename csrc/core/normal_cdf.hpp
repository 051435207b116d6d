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

inline constexpr int kCdfTerms = 10;  // cdf_polynomial spells them out
inline constexpr int kCdfStepsPerUnit = 16;
inline constexpr double kCdfLimit = 8.5;
inline constexpr int kCdfRows = 2 * 136 + 1;
inline constexpr double kCdfSlack = 0x1p-48;

// Where x lies in the table: the step of 1/16 nearest to it, and the distance from that.
struct CdfPlace {
  double step;
  double offset;
};

// Adding and subtracting this rounds a small double to the nearest integer, in two IEEE-fixed operations.
inline constexpr double kRoundingShift = 0x1.8p52;

// x is moved into the table's range, and NaN to its lower end, so that no row outside is read.
CERTCAL_HD CdfPlace cdf_place(double x) {
  const double raised = x > -kCdfLimit ? x : -kCdfLimit;
  const double inside = raised < kCdfLimit ? raised : kCdfLimit;
  const double scaled = inside * kCdfStepsPerUnit;
  const double step = (scaled + kRoundingShift) - kRoundingShift;
  return {step, (scaled - step) * (1.0 / kCdfStepsPerUnit)};  // both operations are exact
}

CERTCAL_HD const double* cdf_row(double step, const double* table) {
  return table + (static_cast<int>(step) + (kCdfRows - 1) / 2) * kCdfTerms;
}

// Phi to within kCdfSlack / 2, by Estrin's scheme: a third of the latency of Horner's.
CERTCAL_HD double cdf_polynomial(const double* row, double offset) {
  const double square = offset * offset;
  const double low = fma(fma(row[3], offset, row[2]), square, fma(row[1], offset, row[0]));
  const double high = fma(fma(row[7], offset, row[6]), square, fma(row[5], offset, row[4]));
  const double top = fma(row[9], offset, row[8]);
  const double fourth = square * square;
  return fma(fma(top, fourth, high), fourth, low);
}

// The polynomial's value to a bound on Phi(x). NaN gives 0 and 1, which bound nothing.
CERTCAL_HD double cdf_below(double x, double p) {
  const double bound = p - kCdfSlack;
  return (!(x >= -kCdfLimit) | (bound < 0.0)) ? 0.0 : bound;
}

CERTCAL_HD double cdf_above(double x, double p) {
  const double bound = p + kCdfSlack;
  return (!(x <= kCdfLimit) | (bound > 1.0)) ? 1.0 : bound;
}

CERTCAL_HD double normal_cdf(double x, const double* table) {
  const CdfPlace place = cdf_place(x);
  return cdf_polynomial(cdf_row(place.step, table), place.offset);
}

CERTCAL_HD double normal_cdf_below(double x, const double* table) {
  return cdf_below(x, normal_cdf(x, table));
}

CERTCAL_HD double normal_cdf_above(double x, const double* table) {
  return cdf_above(x, normal_cdf(x, table));
}

}  // namespace certcal
