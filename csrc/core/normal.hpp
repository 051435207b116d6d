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

// The transform of one radius word and one angle word, in five stages to be called in this order; a SIMD path does other
// work between them.
template <class F, class Word>
class NormalStages {
 public:
  CERTCAL_HD void reduce(Word radius_word, Word angle_word) {
    reduce_radius(radius_word);
    reduce_angle(angle_word);
  }
  CERTCAL_HD void logarithm() { tail_ = log_tail(f_); }
  CERTCAL_HD void sine_and_cosine() {
    const F square = y_ * y_;
    sine_ = fused(square * y_, sin_tail(square), y_);
    cosine_ = fused(square * square, cos_tail(square), fused(square, F(-0.5f), F(1.0f)));
  }
  // sqrt(-2 log u) for u = (w + 1/2) / 2^32, everything scaled by -2 from the start, which is exact.
  CERTCAL_HD void radius() {
    const F square = f_ * f_;
    const F log_mantissa = fused(square * f_, tail_, fused(f_, F(-2.0f), square));
    radius_ = square_root(fused(exponent_, F(-0x1.62e430p+0f), log_mantissa));
  }
  // Odd quarter turns exchange sine and cosine. The sine is negative in the second half turn, the cosine a quarter turn
  // before that.
  CERTCAL_HD void turn() {
    const NormalPair<F> axes = exchanged_where(turned_ & Word(1u << 30), cosine_, sine_);
    cosine_ = with_sign_flipped(axes.first, turned_ + Word(1u << 30));
    sine_ = with_sign_flipped(axes.second, turned_);
  }
  CERTCAL_HD NormalPair<F> pair() const { return {radius_ * cosine_, radius_ * sine_}; }

 private:
  // u = m * 2^e with m = 1 + f in [sqrt(1/2), sqrt(2)): adding the distance from sqrt(1/2) to 1 carries into the exponent,
  // from which the same addition takes the 32 of 2^-32.
  CERTCAL_HD void reduce_radius(Word w) {
    const F steps = from_unsigned(w) + F(0.5f);
    const Word shifted = bits_of(steps) + Word(0x3F800000u - 0x3F3504F3u - (32u << 23));
    exponent_ = exponent_of(shifted);
    f_ = float_of((shifted & Word(0x007FFFFFu)) + Word(0x3F3504F3u)) - F(1.0f);
  }
  // An eighth of a turn further, the top two bits count quarter turns, and the rest is the angle past the last axis plus
  // an eighth of a turn: 2 pi / 2^32 times an odd number in (-2^29, 2^29).
  CERTCAL_HD void reduce_angle(Word w) {
    turned_ = w + Word(1u << 29);
    const Word offset = masked_or(turned_, 0x3FFFFFFFu, 1u) - Word(1u << 29);
    y_ = from_signed(offset) * F(0x1.921fb6p-30f);
  }

  F exponent_, f_, tail_, radius_;
  Word turned_;
  F y_, sine_, cosine_;
};

template <class F, class Word>
CERTCAL_HD NormalPair<F> normal_pair(Word radius_word, Word angle_word) {
  NormalStages<F, Word> normal;
  normal.reduce(radius_word, angle_word);
  normal.logarithm();
  normal.sine_and_cosine();
  normal.radius();
  normal.turn();
  return normal.pair();
}

template <class F>
struct NormalBlock {
  F z0, z1, z2, z3;
};

template <class F, class Word>
CERTCAL_HD NormalBlock<F> normals_of(const PhiloxBlock<Word>& w) {
  const NormalPair<F> a = normal_pair<F>(w.w0, w.w1);
  const NormalPair<F> b = normal_pair<F>(w.w2, w.w3);
  return {a.first, a.second, b.first, b.second};
}

// Elements 4 * block .. 4 * block + 3 of one draw of one sample.
template <class F, class Word, class Keys>
CERTCAL_HD NormalBlock<F> normal_block(Word block, uint32_t draw, uint64_t sample_id,
                                       const Keys& keys) {
  const PhiloxBlock<Word> counter{block, draw, static_cast<uint32_t>(sample_id),
                                  static_cast<uint32_t>(sample_id >> 32)};
  return normals_of<F>(philox4x32_10(counter, keys));
}

// What a noisy element is: one rounding.
template <class F>
CERTCAL_HD F perturb(F x, F sigma, F z) {
  return fused(sigma, z, x);
}

}  // namespace certcal
