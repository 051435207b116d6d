// SPDX-License-Identifier: MIT
// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A counter-based generator: 128 bits of counter and 64 bits of key go in, 128 random bits come out, no state is kept.
// Word is uint32_t, or a vector of uint32_t for which multiply_high_low and exclusive_or are defined (cpu/simd_*.hpp).
#pragma once

#include <cstdint>

#include "host_device.hpp"

namespace certcal {

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
inline constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
inline constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
inline constexpr int kPhiloxRounds = 10;

template <class Word>
struct PhiloxBlock {
  Word w0, w1, w2, w3;
};

CERTCAL_HD void multiply_high_low(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
#ifdef __CUDA_ARCH__
  // nvcc makes a signed 64-bit product of the one below, and adds what it has too much.
  high = __umulhi(a, b);
  low = a * b;
#else
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
#endif
}

CERTCAL_HD uint32_t exclusive_or(uint32_t a, uint32_t b, uint32_t c) { return a ^ b ^ c; }

CERTCAL_HD uint32_t exclusive_or(uint32_t a, uint32_t b) { return a ^ b; }

// The key is the same for every lane of a vector, so it stays scalar and is bumped once a round.
struct PhiloxKey {
  uint32_t k0, k1;

  static CERTCAL_HD PhiloxKey of(uint64_t seed) {
    return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  }
  CERTCAL_HD PhiloxKey after(int rounds) const {
    const uint32_t n = static_cast<uint32_t>(rounds);
    return {k0 + n * kPhiloxWeyl0, k1 + n * kPhiloxWeyl1};
  }
};

// The keys of all rounds, made once: a kernel reads them as constants, where it would else add twice a round.
struct PhiloxRoundKeys {
  PhiloxKey of_round[kPhiloxRounds];

  PhiloxRoundKeys() = default;
  explicit PhiloxRoundKeys(PhiloxKey key) {
    for (int round = 0; round < kPhiloxRounds; ++round) of_round[round] = key.after(round);
  }
  CERTCAL_HD PhiloxKey after(int rounds) const { return of_round[rounds]; }
};

template <class Word>
CERTCAL_HD PhiloxBlock<Word> philox_round(const PhiloxBlock<Word>& counter, PhiloxKey key) {
  Word high0, low0, high1, low1;
  multiply_high_low(counter.w0, kPhiloxMultiplier0, high0, low0);
  multiply_high_low(counter.w2, kPhiloxMultiplier1, high1, low1);
  return {exclusive_or(high1, counter.w1, Word(key.k0)), low1,
          exclusive_or(high0, counter.w3, Word(key.k1)), low0};
}

// Keys: PhiloxKey or PhiloxRoundKeys.
template <class Word, class Keys>
CERTCAL_HD PhiloxBlock<Word> philox4x32_10(PhiloxBlock<Word> counter, const Keys& keys) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    counter = philox_round(counter, keys.after(round));
  }
  return counter;
}

// How a vector of words is laid out while the rounds run on it; for scalars, as it is. A SIMD path may spread its lanes
// over registers in which the 64-bit products need no shuffling, and gather them in the last round.
template <class Word>
struct PhiloxLayout {
  using Lanes = Word;
  static CERTCAL_HD Lanes spread(Word w) { return w; }
  static CERTCAL_HD PhiloxBlock<Word> last_round(const PhiloxBlock<Lanes>& counter, PhiloxKey key) {
    return philox_round(counter, key);
  }
};

// Philox of the counters (block, draw, sample id) for several draws of the same blocks. The first three rounds mix the
// parts of a counter slowly: most of their words depend on the block and not on the draw, or on the draw and not on the
// block. PhiloxOfDraw holds what one draw needs of them, PhiloxOfBlocks what its blocks need, and a quarter of the
// multiplications is done once for all draws. The words are those of philox4x32_10.
struct PhiloxOfDraw {
  uint32_t high, low;

  PhiloxOfDraw() = default;
  CERTCAL_HD PhiloxOfDraw(uint32_t draw, uint64_t sample_id, PhiloxKey key) {
    uint32_t sample_high, sample_low;
    multiply_high_low(static_cast<uint32_t>(sample_id), kPhiloxMultiplier1, sample_high,
                      sample_low);
    multiply_high_low(sample_high ^ draw ^ key.k0, kPhiloxMultiplier0, high, low);
    high ^= key.after(1).k1;
  }
};

inline constexpr int kPhiloxSharedRounds = 3;

template <class Word>
class PhiloxOfBlocks {
 public:
  using Layout = PhiloxLayout<Word>;
  using Lanes = typename Layout::Lanes;

  PhiloxOfBlocks() = default;
  CERTCAL_HD PhiloxOfBlocks(Word blocks, uint64_t sample_id, PhiloxKey key) {
    const uint32_t sample_low = static_cast<uint32_t>(sample_id) * kPhiloxMultiplier1;
    const uint32_t sample_top = static_cast<uint32_t>(sample_id >> 32);
    Lanes high;
    multiply_high_low(Layout::spread(blocks), kPhiloxMultiplier0, high, low0_);
    Lanes low;
    multiply_high_low(exclusive_or(high, Lanes(sample_top ^ key.k1)), kPhiloxMultiplier1, high,
                      low);
    const Lanes w0 = exclusive_or(high, Lanes(sample_low ^ key.after(1).k0));
    w1_ = exclusive_or(low, Lanes(key.after(2).k0));
    multiply_high_low(w0, kPhiloxMultiplier0, high, low2_);
    high2_ = exclusive_or(high, Lanes(key.after(2).k1));
  }

  // The counter of a draw after three rounds.
  CERTCAL_HD PhiloxBlock<Lanes> counter(PhiloxOfDraw draw) const {
    Lanes high, low;
    multiply_high_low(exclusive_or(low0_, Lanes(draw.high)), kPhiloxMultiplier1, high, low);
    return {exclusive_or(high, w1_), low, exclusive_or(high2_, Lanes(draw.low)), low2_};
  }

 private:
  // The low product of round 0, and of round 2 its first word's neighbour and its first product; keys mixed in.
  Lanes low0_, w1_, high2_, low2_;
};

}  // namespace certcal
