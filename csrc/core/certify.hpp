// SPDX-License-Identifier: MIT
// From an interval of the unperturbed smoothed confidence to what it adds to the Brier sums and ECE tables of a radius.
#pragma once

#include <cstdint>

#include "ece_table.hpp"
#include "fixed_point.hpp"
#include "host_device.hpp"
#include "normal_cdf.hpp"

namespace certcal {

struct Interval {
  double lower, upper;
};

// The Neyman-Pearson bound of randomized smoothing (Cohen, Rosenfeld and Kolter, ICML 2019; Kumar et al., NeurIPS 2020): under an l2
// perturbation of norm R, a smoothed confidence within [Phi(probit_lower), Phi(probit_upper)] stays within
// [Phi(probit_lower - R / sigma), Phi(probit_upper + R / sigma)]. shift = R / sigma.
CERTCAL_HD Interval shift_interval(double probit_lower, double probit_upper, double shift,
                                   const double* cdf_table) {
  return {normal_cdf_below(probit_lower - shift, cdf_table),
          normal_cdf_above(probit_upper + shift, cdf_table)};
}

// The prediction certificate with the runner-up bounded by 1 - lower: lower stays above 1/2 at the radius.
CERTCAL_HD bool prediction_is_certified(double probit_lower, double shift) {
  return probit_lower > shift;
}

// The worst squared error of a confidence in [lower, upper], rounded up: (1 - lower)^2 where right, upper^2 where wrong
// (certified Brier score, Emde et al., ICLR 2025).
CERTCAL_HD int64_t worst_square(int correct, double lower, double upper) {
  return fixed_square_ceil(correct ? kOne - fixed_floor(lower) : fixed_ceil(upper));
}

// One row of the clean statistics of a bin.
enum CleanWord : int {
  kSamples = 0,
  kRight = 1,
  kConfidenceHigh = 2,
  kConfidenceLow = 3,
  kCleanWords = 4
};

// The Brier sums of a radius.
enum BrierWord : int {
  kCertifiedHigh = 0,
  kCertifiedLow = 1,
  kCleanHigh = 2,
  kCleanLow = 3,
  kBrierWords = 4
};

}  // namespace certcal
