// SPDX-License-Identifier: MIT
#include "shift_kernel.hpp"

namespace certcal {

void shift_rows_scalar(const double* probit_lower, const double* probit_upper, double shift,
                       int64_t rows, const double* cdf_table, double* lower, double* upper) {
  for (int64_t n = 0; n < rows; ++n) {
    const Interval z = shift_interval(probit_lower[n], probit_upper[n], shift, cdf_table);
    lower[n] = z.lower;
    upper[n] = z.upper;
  }
}

}  // namespace certcal
