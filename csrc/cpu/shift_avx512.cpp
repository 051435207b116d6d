// SPDX-License-Identifier: MIT
// Compiled with -mavx512f; called only where the processor has it.
#include <immintrin.h>

#include "shift_kernel.hpp"

namespace certcal {
namespace {

struct Doubles8 {
  __m512d v;
  explicit Doubles8(__m512d x) : v(x) {}
  explicit Doubles8(double x) : v(_mm512_set1_pd(x)) {}
};
Doubles8 operator+(Doubles8 a, Doubles8 b) { return Doubles8(_mm512_add_pd(a.v, b.v)); }
Doubles8 operator-(Doubles8 a, Doubles8 b) { return Doubles8(_mm512_sub_pd(a.v, b.v)); }
Doubles8 operator*(Doubles8 a, Doubles8 b) { return Doubles8(_mm512_mul_pd(a.v, b.v)); }
Doubles8 fused(Doubles8 a, Doubles8 b, Doubles8 c) {
  return Doubles8(_mm512_fmadd_pd(a.v, b.v, c.v));
}

struct Avx512Lanes {
  using Float = Doubles8;
  static constexpr int kWidth = 8;
  static Float raise(Float a, Float b) { return Float(_mm512_max_pd(a.v, b.v)); }
  static Float lower(Float a, Float b) { return Float(_mm512_min_pd(a.v, b.v)); }
  static double first(Float x) { return _mm512_cvtsd_f64(x.v); }
  static bool all_equal(Float x) {
    return _mm512_cmp_pd_mask(x.v, _mm512_set1_pd(first(x)), _CMP_NEQ_UQ) == 0;
  }
  static Float at_least(Float x, Float bound, Float value, Float otherwise) {
    return Float(
        _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x.v, bound.v, _CMP_GE_OQ), otherwise.v, value.v));
  }
  static Float at_most(Float x, Float bound, Float value, Float otherwise) {
    return Float(
        _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x.v, bound.v, _CMP_LE_OQ), otherwise.v, value.v));
  }
  static Float load(const double* p) { return Float(_mm512_loadu_pd(p)); }
  static void store(double* p, Float x) { _mm512_storeu_pd(p, x.v); }
};

}  // namespace

void shift_rows_avx512(const double* probit_lower, const double* probit_upper, double shift,
                       int64_t rows, const double* cdf_table, double* lower, double* upper) {
  shift_rows<Avx512Lanes>(probit_lower, probit_upper, shift, rows, cdf_table, lower, upper);
}

}  // namespace certcal
