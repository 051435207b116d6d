// SPDX-License-Identifier: MIT
// Uniform words to standard normal floats: the Box-Muller transform, written with +, -, *, fma and sqrt in float32 and
// with integer operations, all of which IEEE 754 or two's complement fix to the last bit. Built without contraction
// (-ffp-contract=off, --fmad=false), CPU and CUDA therefore give the same bits.
//
// The radius comes from u = (w + 1/2) / 2^32 in (0, 1] (so |z| <= sqrt(2 * 33 * log 2) < 6.77), the angle from a turn of
// 2^32 steps folded into an eighth of a turn on both sides of an axis; the fold takes odd numbers only, so the law of the
// pair is exactly symmetric under both signs and under exchange.
#pragma once

#include <cstdint>

#include "host_device.hpp"
#include "philox.hpp"
#include "polynomials.hpp"
#include "scalar.hpp"

namespace certcal {

inline constexpr int kNormalsPerBlock = 4;  // one Philox block gives four normals

// sqrt(-2 log((w + 1/2) / 2^32)). Everything is scaled by -2 from the start, which is exact.
template <class F, class Word>
CERTCAL_HD F normal_radius(Word w) {
  const F u = fused(from_unsigned(w), F(0x1p-32f), F(0x1p-33f));
  // u = m * 2^e with m in [sqrt(1/2), sqrt(2)): adding the distance from sqrt(1/2) to 1 carries into the exponent.
  const Word shifted = bits_of(u) + Word(0x3F800000u - 0x3F3504F3u);
  const F exponent = from_signed(shifted >> 23) - F(127.0f);
  const F f = float_of((shifted & Word(0x007FFFFFu)) + Word(0x3F3504F3u)) - F(1.0f);
  const F square = f * f;
  const F log_mantissa = fused(square * f, log_tail(f), fused(f, F(-2.0f), square));
  return square_root(fused(exponent, F(-0x1.62e430p+0f), log_mantissa));
}

template <class F, class Word>
CERTCAL_HD NormalPair<F> normal_pair(Word radius_word, Word angle_word) {
  const F radius = normal_radius<F>(radius_word);

  // An eighth of a turn further, the top two bits count quarter turns, and the rest is the angle past the last axis plus
  // an eighth of a turn.
  const Word turned = angle_word + Word(1u << 29);
  const Word offset = ((turned & Word(0x3FFFFFFFu)) | Word(1u)) - Word(1u << 29);
  const F y =
      from_signed(offset) * F(0x1.921fb6p-30f);  // 2 pi / 2^32 times an odd number in (-2^29, 2^29)
  const F square = y * y;
  const F sine = fused(square * y, sin_tail(square), y);
  const F cosine = fused(square * square, cos_tail(square), fused(square, F(-0.5f), F(1.0f)));

  // Odd quarter turns exchange sine and cosine. The sine is negative in the second half turn, the cosine a quarter turn
  // before that.
  const NormalPair<F> axes = exchanged_where(turned & Word(1u << 30), cosine, sine);
  const Word sign(1u << 31);
  return {radius * float_of(bits_of(axes.first) ^ ((turned + Word(1u << 30)) & sign)),
          radius * float_of(bits_of(axes.second) ^ (turned & sign))};
}

template <class F>
struct NormalBlock {
  F z0, z1, z2, z3;
};

// The uniform words behind elements 4 * block .. 4 * block + 3 of one draw of one sample.
template <class Word>
CERTCAL_HD PhiloxBlock<Word> normal_words(Word block, uint32_t draw, uint64_t sample_id,
                                          uint64_t seed) {
  using Layout = PhiloxLayout<Word>;
  using Lanes = typename Layout::Lanes;
  const PhiloxBlock<Lanes> counter{Layout::spread(block), Lanes(draw),
                                   Lanes(static_cast<uint32_t>(sample_id)),
                                   Lanes(static_cast<uint32_t>(sample_id >> 32))};
  const PhiloxBlock<Lanes> w =
      philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return {Layout::gather(w.w0), Layout::gather(w.w1), Layout::gather(w.w2), Layout::gather(w.w3)};
}

template <class F, class Word>
CERTCAL_HD NormalBlock<F> normals_of(const PhiloxBlock<Word>& w) {
  const NormalPair<F> a = normal_pair<F>(w.w0, w.w1);
  const NormalPair<F> b = normal_pair<F>(w.w2, w.w3);
  return {a.first, a.second, b.first, b.second};
}

template <class F, class Word>
CERTCAL_HD NormalBlock<F> normal_block(Word block, uint32_t draw, uint64_t sample_id,
                                       uint64_t seed) {
  return normals_of<F>(normal_words(block, draw, sample_id, seed));
}

// What a noisy element is: one rounding.
template <class F>
CERTCAL_HD F perturb(F x, F sigma, F z) {
  return fused(sigma, z, x);
}

}  // namespace certcal
