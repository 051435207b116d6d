// SPDX-License-Identifier: MIT
// Compiled with -mavx2 -mfma -mf16c; called only where the processor has them.
#include <immintrin.h>

#include "noise_kernel.hpp"

namespace certcal {
namespace {

struct Words8 {
  __m256i v;
  explicit Words8(__m256i x) : v(x) {}
  explicit Words8(uint32_t x) : v(_mm256_set1_epi32(static_cast<int>(x))) {}
  Words8() = default;
};
Words8 operator+(Words8 a, Words8 b) { return Words8(_mm256_add_epi32(a.v, b.v)); }
Words8 operator-(Words8 a, Words8 b) { return Words8(_mm256_sub_epi32(a.v, b.v)); }
Words8 operator^(Words8 a, Words8 b) { return Words8(_mm256_xor_si256(a.v, b.v)); }
Words8 operator&(Words8 a, Words8 b) { return Words8(_mm256_and_si256(a.v, b.v)); }
Words8 operator|(Words8 a, Words8 b) { return Words8(_mm256_or_si256(a.v, b.v)); }
Words8 operator>>(Words8 a, int n) { return Words8(_mm256_srli_epi32(a.v, n)); }

// Eight words in the low halves of 64-bit lanes. The high halves hold whatever the last operation left: the
// multiplication reads the low ones only, and its product is both words of the result at once.
struct SpreadWords8 {
  __m256i even, odd;
  SpreadWords8(__m256i e, __m256i o) : even(e), odd(o) {}
  explicit SpreadWords8(uint32_t x) : even(_mm256_set1_epi32(static_cast<int>(x))), odd(even) {}
  SpreadWords8() = default;
};
Words8 exclusive_or(Words8 a, Words8 b, Words8 c) { return a ^ b ^ c; }
SpreadWords8 exclusive_or(SpreadWords8 a, SpreadWords8 b) {
  return {_mm256_xor_si256(a.even, b.even), _mm256_xor_si256(a.odd, b.odd)};
}
SpreadWords8 exclusive_or(SpreadWords8 a, SpreadWords8 b, SpreadWords8 c) {
  return {_mm256_xor_si256(_mm256_xor_si256(a.even, b.even), c.even),
          _mm256_xor_si256(_mm256_xor_si256(a.odd, b.odd), c.odd)};
}
void multiply_high_low(SpreadWords8 a, uint32_t b, SpreadWords8& high, SpreadWords8& low) {
  const __m256i factor = _mm256_set1_epi64x(static_cast<int64_t>(b));
  low = {_mm256_mul_epu32(a.even, factor), _mm256_mul_epu32(a.odd, factor)};
  high = {_mm256_srli_epi64(low.even, 32), _mm256_srli_epi64(low.odd, 32)};
}

struct Floats8 {
  __m256 v;
  explicit Floats8(__m256 x) : v(x) {}
  Floats8() = default;
  explicit Floats8(float x) : v(_mm256_set1_ps(x)) {}
};
Floats8 operator*(Floats8 a, Floats8 b) { return Floats8(_mm256_mul_ps(a.v, b.v)); }
Floats8 operator+(Floats8 a, Floats8 b) { return Floats8(_mm256_add_ps(a.v, b.v)); }
Floats8 operator-(Floats8 a, Floats8 b) { return Floats8(_mm256_sub_ps(a.v, b.v)); }
Floats8 fused(Floats8 a, Floats8 b, Floats8 c) { return Floats8(_mm256_fmadd_ps(a.v, b.v, c.v)); }
Floats8 square_root(Floats8 x) { return Floats8(_mm256_sqrt_ps(x.v)); }
Floats8 from_signed(Words8 w) { return Floats8(_mm256_cvtepi32_ps(w.v)); }
// AVX2 converts signed integers only. Both halves are exact, and the fma rounds their sum once: the same float that a
// direct conversion to nearest gives.
Floats8 from_unsigned(Words8 w) {
  const Floats8 high = from_signed(w >> 16);
  const Floats8 low = from_signed(w & Words8(0xFFFFu));
  return fused(high, Floats8(65536.0f), low);
}
Words8 bits_of(Floats8 x) { return Words8(_mm256_castps_si256(x.v)); }
Floats8 float_of(Words8 w) { return Floats8(_mm256_castsi256_ps(w.v)); }
Floats8 exponent_of(Words8 w) { return from_signed(w >> 23) - Floats8(127.0f); }
Words8 masked_or(Words8 x, uint32_t mask, uint32_t bits) {
  return (x & Words8(mask)) | Words8(bits);
}
Floats8 with_sign_flipped(Floats8 x, Words8 word) {
  return float_of(bits_of(x) ^ (word & Words8(0x80000000u)));
}

NormalPair<Floats8> exchanged_where(Words8 bit, Floats8 a, Floats8 b) {
  // A blend looks at the sign bit only; the bit in question is the one below.
  const __m256 set = _mm256_castsi256_ps(_mm256_slli_epi32(bit.v, 1));
  return {Floats8(_mm256_blendv_ps(a.v, b.v, set)), Floats8(_mm256_blendv_ps(b.v, a.v, set))};
}

struct Avx2Lanes {
  using Float = Floats8;
  using Word = Words8;
  static constexpr int kWidth = 8;
  // Lane 4 g + k computes block 2 k + g: the transposition inside 128-bit groups then leaves memory order.
  static Word block_order() { return Words8(_mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)); }
  static void transpose(Float (&z)[4]) {
    const __m256 low01 = _mm256_unpacklo_ps(z[0].v, z[1].v);
    const __m256 high01 = _mm256_unpackhi_ps(z[0].v, z[1].v);
    const __m256 low23 = _mm256_unpacklo_ps(z[2].v, z[3].v);
    const __m256 high23 = _mm256_unpackhi_ps(z[2].v, z[3].v);
    z[0].v = _mm256_shuffle_ps(low01, low23, 0x44);
    z[1].v = _mm256_shuffle_ps(low01, low23, 0xEE);
    z[2].v = _mm256_shuffle_ps(high01, high23, 0x44);
    z[3].v = _mm256_shuffle_ps(high01, high23, 0xEE);
  }
  static Float load(const float* p, int k) { return Floats8(_mm256_loadu_ps(p + 8 * k)); }
  static void store(float* p, int k, Float x) { _mm256_storeu_ps(p + 8 * k, x.v); }
  static void store(Float16* p, int k, Float x) {
    constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    store_halves(p + 8 * k, _mm256_cvtps_ph(x.v, kToNearest));
  }
  static void store(BFloat16* p, int k, Float x) {
    const __m256i bits = _mm256_castps_si256(x.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), odd);
    // Nothing is added to NaN. It comes out of fma and is quiet: cut off, it stays NaN.
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_andnot_si256(is_nan, up));
    const __m256i halves = _mm256_srli_epi32(rounded, 16);
    store_halves(p + 8 * k, _mm_packus_epi32(_mm256_castsi256_si128(halves),
                                             _mm256_extracti128_si256(halves, 1)));
  }

 private:
  static void store_halves(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
};

}  // namespace

template <>
struct PhiloxLayout<Words8> {
  using Lanes = SpreadWords8;
  static Lanes spread(Words8 w) { return {w.v, _mm256_srli_epi64(w.v, 32)}; }
  static Words8 low_words(Lanes p) {
    return Words8(_mm256_blend_epi32(p.even, _mm256_slli_epi64(p.odd, 32), 0xAA));
  }
  static Words8 high_words(Lanes p) {
    return Words8(_mm256_blend_epi32(p.odd, _mm256_srli_epi64(p.even, 32), 0x55));
  }
  static PhiloxBlock<Words8> last_round(const PhiloxBlock<Lanes>& counter, PhiloxKey key) {
    return gathered_round<Words8>(counter, key);
  }
};

template <class Value>
void noise_rows_avx2(const NoiseRows& rows, Value* out) {
  noise_rows<Avx2Lanes>(rows, out);
}

template void noise_rows_avx2(const NoiseRows&, float*);
template void noise_rows_avx2(const NoiseRows&, Float16*);
template void noise_rows_avx2(const NoiseRows&, BFloat16*);

}  // namespace certcal
