// SPDX-License-Identifier: MIT
// Compiled with -mavx512f; called only where the processor has it.
#include <immintrin.h>

#include "noise_kernel.hpp"

namespace certcal {
namespace {

struct Words16 {
  __m512i v;
  explicit Words16(__m512i x) : v(x) {}
  explicit Words16(uint32_t x) : v(_mm512_set1_epi32(static_cast<int>(x))) {}
  Words16() = default;
};
Words16 operator+(Words16 a, Words16 b) { return Words16(_mm512_add_epi32(a.v, b.v)); }
Words16 operator-(Words16 a, Words16 b) { return Words16(_mm512_sub_epi32(a.v, b.v)); }
Words16 operator&(Words16 a, Words16 b) { return Words16(_mm512_and_si512(a.v, b.v)); }

// Sixteen words in the low halves of 64-bit lanes. The high halves hold whatever the last operation left: the
// multiplication reads the low ones only, and its product is both words of the result at once.
struct SpreadWords16 {
  __m512i even, odd;
  SpreadWords16(__m512i e, __m512i o) : even(e), odd(o) {}
  explicit SpreadWords16(uint32_t x) : even(_mm512_set1_epi32(static_cast<int>(x))), odd(even) {}
  SpreadWords16() = default;
};
Words16 exclusive_or(Words16 a, Words16 b, Words16 c) {
  return Words16(_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0x96));
}
SpreadWords16 exclusive_or(SpreadWords16 a, SpreadWords16 b) {
  return {_mm512_xor_si512(a.even, b.even), _mm512_xor_si512(a.odd, b.odd)};
}
SpreadWords16 exclusive_or(SpreadWords16 a, SpreadWords16 b, SpreadWords16 c) {
  return {_mm512_ternarylogic_epi64(a.even, b.even, c.even, 0x96),
          _mm512_ternarylogic_epi64(a.odd, b.odd, c.odd, 0x96)};
}
void multiply_high_low(SpreadWords16 a, uint32_t b, SpreadWords16& high, SpreadWords16& low) {
  const __m512i factor = _mm512_set1_epi64(static_cast<int64_t>(b));
  low = {_mm512_mul_epu32(a.even, factor), _mm512_mul_epu32(a.odd, factor)};
  high = {_mm512_srli_epi64(low.even, 32), _mm512_srli_epi64(low.odd, 32)};
}

struct Floats16 {
  __m512 v;
  explicit Floats16(__m512 x) : v(x) {}
  Floats16() = default;
  explicit Floats16(float x) : v(_mm512_set1_ps(x)) {}
};
Floats16 operator*(Floats16 a, Floats16 b) { return Floats16(_mm512_mul_ps(a.v, b.v)); }
Floats16 operator+(Floats16 a, Floats16 b) { return Floats16(_mm512_add_ps(a.v, b.v)); }
Floats16 operator-(Floats16 a, Floats16 b) { return Floats16(_mm512_sub_ps(a.v, b.v)); }
Floats16 fused(Floats16 a, Floats16 b, Floats16 c) {
  return Floats16(_mm512_fmadd_ps(a.v, b.v, c.v));
}
Floats16 square_root(Floats16 x) { return Floats16(_mm512_sqrt_ps(x.v)); }
Floats16 from_unsigned(Words16 w) { return Floats16(_mm512_cvtepu32_ps(w.v)); }
Floats16 from_signed(Words16 w) { return Floats16(_mm512_cvtepi32_ps(w.v)); }
Words16 bits_of(Floats16 x) { return Words16(_mm512_castps_si512(x.v)); }
Floats16 float_of(Words16 w) { return Floats16(_mm512_castsi512_ps(w.v)); }
Floats16 exponent_of(Words16 w) { return Floats16(_mm512_getexp_ps(float_of(w).v)); }
// One instruction looks up a function of three bits in eight of its own.
Words16 masked_or(Words16 x, uint32_t mask, uint32_t bits) {
  return Words16(_mm512_ternarylogic_epi32(x.v, Words16(mask).v, Words16(bits).v, 0xEA));
}
Floats16 with_sign_flipped(Floats16 x, Words16 word) {
  return float_of(
      Words16(_mm512_ternarylogic_epi32(bits_of(x).v, word.v, Words16(0x80000000u).v, 0x78)));
}

NormalPair<Floats16> exchanged_where(Words16 bit, Floats16 a, Floats16 b) {
  const __mmask16 set = _mm512_test_epi32_mask(bit.v, bit.v);
  return {Floats16(_mm512_mask_blend_ps(set, a.v, b.v)),
          Floats16(_mm512_mask_blend_ps(set, b.v, a.v))};
}

struct Avx512Lanes {
  using Float = Floats16;
  using Word = Words16;
  static constexpr int kWidth = 16;
  // Lane 4 g + k computes block 4 k + g: the transposition inside 128-bit groups then leaves memory order.
  static Word block_order() {
    return Words16(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  }
  static void transpose(Float (&z)[4]) {
    const __m512 low01 = _mm512_unpacklo_ps(z[0].v, z[1].v);
    const __m512 high01 = _mm512_unpackhi_ps(z[0].v, z[1].v);
    const __m512 low23 = _mm512_unpacklo_ps(z[2].v, z[3].v);
    const __m512 high23 = _mm512_unpackhi_ps(z[2].v, z[3].v);
    z[0].v = _mm512_shuffle_ps(low01, low23, 0x44);
    z[1].v = _mm512_shuffle_ps(low01, low23, 0xEE);
    z[2].v = _mm512_shuffle_ps(high01, high23, 0x44);
    z[3].v = _mm512_shuffle_ps(high01, high23, 0xEE);
  }
  static Float load(const float* p, int k) { return Floats16(_mm512_loadu_ps(p + 16 * k)); }
  static void store(float* p, int k, Float x) { _mm512_storeu_ps(p + 16 * k, x.v); }
  static void store(Float16* p, int k, Float x) {
    constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    store_halves(p + 16 * k, _mm512_cvtps_ph(x.v, kToNearest));
  }
  static void store(BFloat16* p, int k, Float x) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    const __m512i word = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    store_halves(p + 16 * k, _mm512_cvtepi32_epi16(_mm512_srli_epi32(word, 16)));
  }

 private:
  static void store_halves(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
};

}  // namespace

template <>
struct PhiloxLayout<Words16> {
  using Lanes = SpreadWords16;
  static Lanes spread(Words16 w) { return {w.v, _mm512_srli_epi64(w.v, 32)}; }
  // The products are spread; each of these takes one of their words for all lanes, in one instruction.
  static Words16 low_words(Lanes p) {
    return Words16(_mm512_mask_shuffle_epi32(p.even, 0xAAAA, p.odd, _MM_PERM_CCAA));
  }
  static Words16 high_words(Lanes p) {
    return Words16(_mm512_mask_shuffle_epi32(p.odd, 0x5555, p.even, _MM_PERM_DDBB));
  }
  static PhiloxBlock<Words16> last_round(const PhiloxBlock<Lanes>& counter, PhiloxKey key) {
    return gathered_round<Words16>(counter, key);
  }
};

template <class Value>
void noise_rows_avx512(const NoiseRows& rows, Value* out) {
  noise_rows<Avx512Lanes>(rows, out);
}

template void noise_rows_avx512(const NoiseRows&, float*);
template void noise_rows_avx512(const NoiseRows&, Float16*);
template void noise_rows_avx512(const NoiseRows&, BFloat16*);

}  // namespace certcal
