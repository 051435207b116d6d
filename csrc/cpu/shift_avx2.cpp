// SPDX-License-Identifier: MIT
// Compiled with -mavx2 -mfma; called only where the processor has it.
#include <immintrin.h>

#include "shift_kernel.hpp"

namespace certcal {
namespace {

struct Doubles4 {
  __m256d v;
  explicit Doubles4(__m256d x) : v(x) {}
  explicit Doubles4(double x) : v(_mm256_set1_pd(x)) {}
};
Doubles4 operator+(Doubles4 a, Doubles4 b) { return Doubles4(_mm256_add_pd(a.v, b.v)); }
Doubles4 operator-(Doubles4 a, Doubles4 b) { return Doubles4(_mm256_sub_pd(a.v, b.v)); }
Doubles4 operator*(Doubles4 a, Doubles4 b) { return Doubles4(_mm256_mul_pd(a.v, b.v)); }
Doubles4 fused(Doubles4 a, Doubles4 b, Doubles4 c) {
  return Doubles4(_mm256_fmadd_pd(a.v, b.v, c.v));
}

struct Avx2Lanes {
  using Float = Doubles4;
  static constexpr int kWidth = 4;
  static Float raise(Float a, Float b) { return Float(_mm256_max_pd(a.v, b.v)); }
  static Float lower(Float a, Float b) { return Float(_mm256_min_pd(a.v, b.v)); }
  static double first(Float x) { return _mm256_cvtsd_f64(x.v); }
  static bool all_equal(Float x) {
    const __m256d differs = _mm256_cmp_pd(x.v, _mm256_set1_pd(first(x)), _CMP_NEQ_UQ);
    return _mm256_movemask_pd(differs) == 0;
  }
  static Float at_least(Float x, Float bound, Float value, Float otherwise) {
    return Float(_mm256_blendv_pd(otherwise.v, value.v, _mm256_cmp_pd(x.v, bound.v, _CMP_GE_OQ)));
  }
  static Float at_most(Float x, Float bound, Float value, Float otherwise) {
    return Float(_mm256_blendv_pd(otherwise.v, value.v, _mm256_cmp_pd(x.v, bound.v, _CMP_LE_OQ)));
  }
  static Float load(const double* p) { return Float(_mm256_loadu_pd(p)); }
  static void store(double* p, Float x) { _mm256_storeu_pd(p, x.v); }
};

}  // namespace

void shift_rows_avx2(const double* probit_lower, const double* probit_upper, double shift,
                     int64_t rows, const double* cdf_table, double* lower, double* upper) {
  shift_rows<Avx2Lanes>(probit_lower, probit_upper, shift, rows, cdf_table, lower, upper);
}

}  // namespace certcal
