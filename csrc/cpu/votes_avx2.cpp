// SPDX-License-Identifier: MIT
// Compiled with -mavx2 -mfma; called only where the processor has it.
#include <immintrin.h>

#include "votes_kernel.hpp"

namespace certcal {
namespace {

struct Floats8 {
  __m256 v;
  explicit Floats8(__m256 x) : v(x) {}
  explicit Floats8(float x) : v(_mm256_set1_ps(x)) {}
};
Floats8 operator+(Floats8 a, Floats8 b) { return Floats8(_mm256_add_ps(a.v, b.v)); }
Floats8 operator-(Floats8 a, Floats8 b) { return Floats8(_mm256_sub_ps(a.v, b.v)); }
Floats8 operator*(Floats8 a, Floats8 b) { return Floats8(_mm256_mul_ps(a.v, b.v)); }
Floats8 fused(Floats8 a, Floats8 b, Floats8 c) { return Floats8(_mm256_fmadd_ps(a.v, b.v, c.v)); }

struct Integers8 {
  __m256i v;
  explicit Integers8(__m256i x) : v(x) {}
  explicit Integers8(int32_t x) : v(_mm256_set1_epi32(x)) {}
};
Integers8 operator+(Integers8 a, Integers8 b) { return Integers8(_mm256_add_epi32(a.v, b.v)); }

struct Doubles4 {
  __m256d v;
  explicit Doubles4(__m256d x) : v(x) {}
  explicit Doubles4(double x) : v(_mm256_set1_pd(x)) {}
};
Doubles4 fused(Doubles4 a, Doubles4 b, Doubles4 c) {
  return Doubles4(_mm256_fmadd_pd(a.v, b.v, c.v));
}

struct Places4 {
  __m256i v;
  explicit Places4(__m256i x) : v(x) {}
  explicit Places4(int64_t x) : v(_mm256_set1_epi64x(x)) {}
};
Places4 operator+(Places4 a, Places4 b) { return Places4(_mm256_add_epi64(a.v, b.v)); }

struct Avx2Doubles {
  using Real = double;
  using Float = Doubles4;
  using Index = Places4;
  using IndexWord = int64_t;
  static constexpr int kWidth = 4;
  using Mask = __m256d;
  static Float max(Float a, Float b) { return Float(_mm256_max_pd(a.v, b.v)); }
  static Float min(Float a, Float b) { return Float(_mm256_min_pd(a.v, b.v)); }
  static Mask above(Float a, Float b) { return _mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ); }
  static Mask equal(Float a, Float b) { return _mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ); }
  static Mask is_nan(Float a) { return _mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q); }
  static uint32_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_pd(mask)); }
  static Float blend(Mask mask, Float yes, Float no) {
    return Float(_mm256_blendv_pd(no.v, yes.v, mask));
  }
  static Index blend(Mask mask, Index yes, Index no) {
    return Index(_mm256_blendv_epi8(no.v, yes.v, _mm256_castpd_si256(mask)));
  }
  static double largest(Float x) {
    const __m128d y = _mm_max_pd(_mm256_castpd256_pd128(x.v), _mm256_extractf128_pd(x.v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(y, _mm_unpackhi_pd(y, y)));
  }
  static Index first_places() { return Index(_mm256_setr_epi64x(0, 1, 2, 3)); }
  static Float load(const double* p) { return Float(_mm256_loadu_pd(p)); }
  static Float load_some(const double* p, int count, Float fill) {
    const __m256i wanted = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), first_places().v);
    return blend(_mm256_castsi256_pd(wanted), Float(_mm256_maskload_pd(p, wanted)), fill);
  }
  static void store(int64_t* p, Index x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
  }
};

struct Avx2Lanes {
  using Doubles = Avx2Doubles;
  using Real = float;
  using IndexWord = int32_t;
  using Float = Floats8;
  using Index = Integers8;
  using Mask = __m256;
  static constexpr int kWidth = 8;

  static Float max(Float a, Float b) { return Float(_mm256_max_ps(a.v, b.v)); }
  static Float min(Float a, Float b) { return Float(_mm256_min_ps(a.v, b.v)); }
  static Mask above(Float a, Float b) { return _mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ); }
  static Mask equal(Float a, Float b) { return _mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ); }
  static Mask is_nan(Float a) { return _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q); }
  static uint32_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
  static Float blend(Mask mask, Float yes, Float no) {
    return Float(_mm256_blendv_ps(no.v, yes.v, mask));
  }
  static Index blend(Mask mask, Index yes, Index no) {
    return Index(_mm256_blendv_epi8(no.v, yes.v, _mm256_castps_si256(mask)));
  }
  static float largest(Float x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }

  static Index first_places() { return Index(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  static Float load(const float* p) { return Float(_mm256_loadu_ps(p)); }
  static Float load_some(const float* p, int count, Float fill) {
    const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), first_places().v);
    return blend(_mm256_castsi256_ps(wanted), Float(_mm256_maskload_ps(p, wanted)), fill);
  }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x.v); }
  static void store(int32_t* p, Index x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
  }
  static void store(int64_t* p, Index x) {
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(x.v));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(x.v, 1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 4), high);
  }

  // Group g of four lanes of quads(i) is the start of row 4 g + i: a transposition inside the groups then does it.
  static void columns(const float* p, int64_t stride, Float (&z)[4]) {
    const auto quads = [&](int64_t i) {
      const __m256 x = _mm256_castps128_ps256(_mm_loadu_ps(p + i * stride));
      return _mm256_insertf128_ps(x, _mm_loadu_ps(p + (4 + i) * stride), 1);
    };
    const __m256 a = quads(0), b = quads(1), c = quads(2), d = quads(3);
    const __m256 low_ab = _mm256_unpacklo_ps(a, b), high_ab = _mm256_unpackhi_ps(a, b);
    const __m256 low_cd = _mm256_unpacklo_ps(c, d), high_cd = _mm256_unpackhi_ps(c, d);
    z[0].v = _mm256_shuffle_ps(low_ab, low_cd, 0x44);
    z[1].v = _mm256_shuffle_ps(low_ab, low_cd, 0xEE);
    z[2].v = _mm256_shuffle_ps(high_ab, high_cd, 0x44);
    z[3].v = _mm256_shuffle_ps(high_ab, high_cd, 0xEE);
  }

  static Float floor(Float x) { return Float(_mm256_floor_ps(x.v)); }
  // Into the exponent's bits: the result stays a normal number where it is used.
  static Float scaled(Float e, Float n) {
    const __m256i power = _mm256_add_epi32(_mm256_cvttps_epi32(n.v), _mm256_set1_epi32(32));
    const __m256i bits = _mm256_castps_si256(e.v);
    return Float(_mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_slli_epi32(power, 23))));
  }
  static Float difference(const float* p, float best) { return load(p) - Float(best); }
  static Float difference(const double* p, double best) {
    const __m256d bests = _mm256_set1_pd(best);
    const __m128 low = _mm256_cvtpd_ps(_mm256_sub_pd(_mm256_loadu_pd(p), bests));
    const __m128 high = _mm256_cvtpd_ps(_mm256_sub_pd(_mm256_loadu_pd(p + 4), bests));
    return Float(_mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1));
  }

  class UnitSum {
   public:
    // floor(x + 1/2) in doubles, which hold x + 1/2 exactly.
    void add(Float x) {
      low_ = _mm256_add_pd(low_, units(_mm256_castps256_ps128(x.v)));
      high_ = _mm256_add_pd(high_, units(_mm256_extractf128_ps(x.v, 1)));
    }
    void store(double* p) const {
      _mm256_storeu_pd(p, low_);
      _mm256_storeu_pd(p + 4, high_);
    }

   private:
    static __m256d units(__m128 x) {
      return _mm256_floor_pd(_mm256_add_pd(_mm256_cvtps_pd(x), _mm256_set1_pd(0.5)));
    }
    __m256d low_ = _mm256_setzero_pd(), high_ = _mm256_setzero_pd();
  };
};

}  // namespace

void top_rows_avx2(const float* logits, int64_t rows, int64_t classes, const float* end,
                   const float* margins, RowBlock& out) {
  if (margins != nullptr) {
    top_rows<Avx2Lanes, true>(logits, rows, classes, end, margins, out);
  } else {
    top_rows<Avx2Lanes, false>(logits, rows, classes, end, margins, out);
  }
}

void top_rows_avx2(const double* logits, int64_t rows, int64_t classes, const double*,
                   const double* margins, RowBlock& out) {
  if (margins != nullptr) {
    top_long_rows<Avx2Doubles, true>(logits, rows, classes, margins, out);
  } else {
    top_long_rows<Avx2Doubles, false>(logits, rows, classes, margins, out);
  }
}

void score_rows_avx2(const float* logits, int64_t rows, int64_t classes, const float* end,
                     const int64_t* chosen, const float* margins, RowBlock& out) {
  score_rows<Avx2Lanes>(logits, rows, classes, end, chosen, margins, out);
}

void score_rows_avx2(const double* logits, int64_t rows, int64_t classes, const double* end,
                     const int64_t* chosen, const double* margins, RowBlock& out) {
  score_rows<Avx2Lanes>(logits, rows, classes, end, chosen, margins, out);
}

}  // namespace certcal
