// SPDX-License-Identifier: MIT
// Compiled with -mavx512f; called only where the processor has it.
#include <immintrin.h>

#include "votes_kernel.hpp"

namespace certcal {
namespace {

struct Floats16 {
  __m512 v;
  explicit Floats16(__m512 x) : v(x) {}
  explicit Floats16(float x) : v(_mm512_set1_ps(x)) {}
};
Floats16 operator+(Floats16 a, Floats16 b) { return Floats16(_mm512_add_ps(a.v, b.v)); }
Floats16 operator-(Floats16 a, Floats16 b) { return Floats16(_mm512_sub_ps(a.v, b.v)); }
Floats16 operator*(Floats16 a, Floats16 b) { return Floats16(_mm512_mul_ps(a.v, b.v)); }
Floats16 fused(Floats16 a, Floats16 b, Floats16 c) {
  return Floats16(_mm512_fmadd_ps(a.v, b.v, c.v));
}

struct Integers16 {
  __m512i v;
  explicit Integers16(__m512i x) : v(x) {}
  explicit Integers16(int32_t x) : v(_mm512_set1_epi32(x)) {}
};
Integers16 operator+(Integers16 a, Integers16 b) { return Integers16(_mm512_add_epi32(a.v, b.v)); }

__m256i upper_half(__m512i x) { return _mm512_extracti64x4_epi64(x, 1); }
__m256 upper_half(__m512 x) { return _mm256_castsi256_ps(upper_half(_mm512_castps_si512(x))); }

struct Doubles8 {
  __m512d v;
  explicit Doubles8(__m512d x) : v(x) {}
  explicit Doubles8(double x) : v(_mm512_set1_pd(x)) {}
};
Doubles8 fused(Doubles8 a, Doubles8 b, Doubles8 c) {
  return Doubles8(_mm512_fmadd_pd(a.v, b.v, c.v));
}

struct Places8 {
  __m512i v;
  explicit Places8(__m512i x) : v(x) {}
  explicit Places8(int64_t x) : v(_mm512_set1_epi64(x)) {}
};
Places8 operator+(Places8 a, Places8 b) { return Places8(_mm512_add_epi64(a.v, b.v)); }

struct Avx512Doubles {
  using Real = double;
  using Float = Doubles8;
  using Index = Places8;
  using IndexWord = int64_t;
  static constexpr int kWidth = 8;
  using Mask = __mmask8;
  static Float max(Float a, Float b) { return Float(_mm512_max_pd(a.v, b.v)); }
  static Float min(Float a, Float b) { return Float(_mm512_min_pd(a.v, b.v)); }
  static Mask above(Float a, Float b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ); }
  static Mask equal(Float a, Float b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ); }
  static Mask is_nan(Float a) { return _mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q); }
  static uint32_t bits(Mask mask) { return mask; }
  static Float blend(Mask mask, Float yes, Float no) {
    return Float(_mm512_mask_blend_pd(mask, no.v, yes.v));
  }
  static Index blend(Mask mask, Index yes, Index no) {
    return Index(_mm512_mask_blend_epi64(mask, no.v, yes.v));
  }
  static double largest(Float x) { return _mm512_reduce_max_pd(x.v); }
  static Index first_places() { return Index(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)); }
  static Float load(const double* p) { return Float(_mm512_loadu_pd(p)); }
  static Float load_some(const double* p, int count, Float fill) {
    return Float(_mm512_mask_loadu_pd(fill.v, static_cast<Mask>((1u << count) - 1), p));
  }
  static void store(int64_t* p, Index x) { _mm512_storeu_si512(p, x.v); }
};

struct Avx512Lanes {
  using Doubles = Avx512Doubles;
  using Real = float;
  using IndexWord = int32_t;
  using Float = Floats16;
  using Index = Integers16;
  using Mask = __mmask16;
  static constexpr int kWidth = 16;

  static Float max(Float a, Float b) { return Float(_mm512_max_ps(a.v, b.v)); }
  static Float min(Float a, Float b) { return Float(_mm512_min_ps(a.v, b.v)); }
  static Mask above(Float a, Float b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
  static Mask equal(Float a, Float b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
  static Mask is_nan(Float a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }
  static uint32_t bits(Mask mask) { return mask; }
  static Float blend(Mask mask, Float yes, Float no) {
    return Float(_mm512_mask_blend_ps(mask, no.v, yes.v));
  }
  static Index blend(Mask mask, Index yes, Index no) {
    return Index(_mm512_mask_blend_epi32(mask, no.v, yes.v));
  }
  static float largest(Float x) { return _mm512_reduce_max_ps(x.v); }

  static Index first_places() {
    return Index(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }
  static Float load(const float* p) { return Float(_mm512_loadu_ps(p)); }
  static Float load_some(const float* p, int count, Float fill) {
    return Float(_mm512_mask_loadu_ps(fill.v, static_cast<Mask>((1u << count) - 1), p));
  }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x.v); }
  static void store(int32_t* p, Index x) { _mm512_storeu_si512(p, x.v); }
  static void store(int64_t* p, Index x) {
    _mm512_storeu_si512(p, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(x.v)));
    _mm512_storeu_si512(p + 8, _mm512_cvtepi32_epi64(upper_half(x.v)));
  }

  // Group g of four lanes of quads(i) is the start of row 4 g + i: a transposition inside the groups then does it.
  static void columns(const float* p, int64_t stride, Float (&z)[4]) {
    const auto quads = [&](int64_t i) {
      const float* row = p + i * stride;
      __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(row));
      x = _mm512_mask_broadcast_f32x4(x, 0x00F0, _mm_loadu_ps(row + 4 * stride));
      x = _mm512_mask_broadcast_f32x4(x, 0x0F00, _mm_loadu_ps(row + 8 * stride));
      return _mm512_mask_broadcast_f32x4(x, 0xF000, _mm_loadu_ps(row + 12 * stride));
    };
    const __m512 a = quads(0), b = quads(1), c = quads(2), d = quads(3);
    const __m512 low_ab = _mm512_unpacklo_ps(a, b), high_ab = _mm512_unpackhi_ps(a, b);
    const __m512 low_cd = _mm512_unpacklo_ps(c, d), high_cd = _mm512_unpackhi_ps(c, d);
    z[0].v = _mm512_shuffle_ps(low_ab, low_cd, 0x44);
    z[1].v = _mm512_shuffle_ps(low_ab, low_cd, 0xEE);
    z[2].v = _mm512_shuffle_ps(high_ab, high_cd, 0x44);
    z[3].v = _mm512_shuffle_ps(high_ab, high_cd, 0xEE);
  }

  static Float floor(Float x) {
    return Float(_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
  }
  static Float scaled(Float e, Float n) {
    return Float(_mm512_scalef_ps(e.v, _mm512_add_ps(n.v, _mm512_set1_ps(32.0f))));
  }
  static Float difference(const float* p, float best) { return load(p) - Float(best); }
  static Float difference(const double* p, double best) {
    const __m512d bests = _mm512_set1_pd(best);
    const __m256 low = _mm512_cvtpd_ps(_mm512_sub_pd(_mm512_loadu_pd(p), bests));
    const __m256 high = _mm512_cvtpd_ps(_mm512_sub_pd(_mm512_loadu_pd(p + 8), bests));
    const __m512d wide = _mm512_castpd256_pd512(_mm256_castps_pd(low));
    return Float(_mm512_castpd_ps(_mm512_insertf64x4(wide, _mm256_castps_pd(high), 1)));
  }

  class UnitSum {
   public:
    // x + 1/2 rounded towards zero keeps its whole part, since every whole number below it that a float can be as
    // large as has a float of its own; so this is the floor of the exact x + 1/2.
    void add(Float x) {
      const __m512 raised =
          _mm512_add_round_ps(x.v, _mm512_set1_ps(0.5f), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
      const __m512 units = floor(Float(raised)).v;
      low_ = _mm512_add_pd(low_, _mm512_cvtps_pd(_mm512_castps512_ps256(units)));
      high_ = _mm512_add_pd(high_, _mm512_cvtps_pd(upper_half(units)));
    }
    void store(double* p) const {
      _mm512_storeu_pd(p, low_);
      _mm512_storeu_pd(p + 8, high_);
    }

   private:
    __m512d low_ = _mm512_setzero_pd(), high_ = _mm512_setzero_pd();
  };
};

}  // namespace

void top_rows_avx512(const float* logits, int64_t rows, int64_t classes, const float* end,
                     const float* margins, RowBlock& out) {
  if (margins != nullptr) {
    top_rows<Avx512Lanes, true>(logits, rows, classes, end, margins, out);
  } else {
    top_rows<Avx512Lanes, false>(logits, rows, classes, end, margins, out);
  }
}

void top_rows_avx512(const double* logits, int64_t rows, int64_t classes, const double*,
                     const double* margins, RowBlock& out) {
  if (margins != nullptr) {
    top_long_rows<Avx512Doubles, true>(logits, rows, classes, margins, out);
  } else {
    top_long_rows<Avx512Doubles, false>(logits, rows, classes, margins, out);
  }
}

void score_rows_avx512(const float* logits, int64_t rows, int64_t classes, const float* end,
                       const int64_t* chosen, const float* margins, RowBlock& out) {
  score_rows<Avx512Lanes>(logits, rows, classes, end, chosen, margins, out);
}

void score_rows_avx512(const double* logits, int64_t rows, int64_t classes, const double* end,
                       const int64_t* chosen, const double* margins, RowBlock& out) {
  score_rows<Avx512Lanes>(logits, rows, classes, end, chosen, margins, out);
}

}  // namespace certcal
