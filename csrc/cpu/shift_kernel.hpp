// SPDX-License-Identifier: MIT
// The intervals of many rows under one shift, written once for every vector width. Each SIMD path is a translation unit
// of its own (shift_avx2.cpp, ...), compiled with its own instruction set, that instantiates this with its Lanes.
#pragma once

#include <cstdint>

#include "../core/certify.hpp"
#include "simd_path.hpp"

namespace certcal {

using ShiftRows = void (*)(const double* probit_lower, const double* probit_upper, double shift,
                           int64_t rows, const double* cdf_table, double* lower, double* upper);

void shift_rows_scalar(const double* probit_lower, const double* probit_upper, double shift,
                       int64_t rows, const double* cdf_table, double* lower, double* upper);
#ifdef CERTCAL_X86
void shift_rows_avx2(const double* probit_lower, const double* probit_upper, double shift,
                     int64_t rows, const double* cdf_table, double* lower, double* upper);
void shift_rows_avx512(const double* probit_lower, const double* probit_upper, double shift,
                       int64_t rows, const double* cdf_table, double* lower, double* upper);
#endif

// Lanes gives: Float (a vector of kWidth doubles with +, -, *), raise(a, b) and lower(a, b) (max and min that return b
// where a is NaN), fused, all_equal, first, load, store, at_least(x, bound, value, otherwise) = x >= bound ? value :
// otherwise, and at_most likewise. Every operation is the one of core/normal_cdf.hpp, so the bits are the same.
template <class Lanes>
struct CdfLanes {
  using Float = typename Lanes::Float;

  // Phi on every lane if all lanes lie in one row of the table, as neighbours in a sorted list mostly do.
  static bool evaluate(Float x, const double* table, Float& p) {
    const Float raised = Lanes::raise(x, Float(-kCdfLimit));
    const Float inside = Lanes::lower(raised, Float(kCdfLimit));
    const Float scaled = inside * Float(static_cast<double>(kCdfStepsPerUnit));
    const Float steps = (scaled + Float(kRoundingShift)) - Float(kRoundingShift);
    if (!Lanes::all_equal(steps)) return false;
    const Float offset = (scaled - steps) * Float(1.0 / kCdfStepsPerUnit);
    const double* row = cdf_row(Lanes::first(steps), table);
    p = cdf_polynomial_of(row, offset);
    return true;
  }

 private:
  static Float cdf_polynomial_of(const double* row, Float offset) {
    const auto pair = [&](int k) { return fused(Float(row[k + 1]), offset, Float(row[k])); };
    const Float square = offset * offset;
    const Float low = fused(pair(2), square, pair(0));
    const Float high = fused(pair(6), square, pair(4));
    const Float fourth = square * square;
    return fused(fused(pair(8), fourth, high), fourth, low);
  }
};

template <class Lanes>
void shift_rows(const double* probit_lower, const double* probit_upper, double shift, int64_t rows,
                const double* cdf_table, double* lower, double* upper) {
  using Float = typename Lanes::Float;
  constexpr int kWidth = Lanes::kWidth;
  const Float zero(0.0), one(1.0), slack(kCdfSlack), limit(kCdfLimit);
  int64_t n = 0;
  for (; n + kWidth <= rows; n += kWidth) {
    const Float x = Lanes::load(probit_lower + n) - Float(shift);
    const Float y = Lanes::load(probit_upper + n) + Float(shift);
    Float p = zero;
    if (CdfLanes<Lanes>::evaluate(x, cdf_table, p)) {
      const Float below = p - slack;
      const Float bounded = Lanes::at_least(below, zero, below, zero);
      Lanes::store(lower + n, Lanes::at_least(x, Float(-kCdfLimit), bounded, zero));
    } else {
      for (int k = 0; k < kWidth; ++k) {
        lower[n + k] = normal_cdf_below(probit_lower[n + k] - shift, cdf_table);
      }
    }
    if (CdfLanes<Lanes>::evaluate(y, cdf_table, p)) {
      const Float above = p + slack;
      const Float bounded = Lanes::at_most(above, one, above, one);
      Lanes::store(upper + n, Lanes::at_most(y, limit, bounded, one));
    } else {
      for (int k = 0; k < kWidth; ++k) {
        upper[n + k] = normal_cdf_above(probit_upper[n + k] + shift, cdf_table);
      }
    }
  }
  for (; n < rows; ++n) {
    const Interval z = shift_interval(probit_lower[n], probit_upper[n], shift, cdf_table);
    lower[n] = z.lower;
    upper[n] = z.upper;
  }
}

}  // namespace certcal
