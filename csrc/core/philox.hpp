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
  const uint64_t product = static_cast<uint64_t>(a) * b;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
}

CERTCAL_HD uint32_t exclusive_or(uint32_t a, uint32_t b, uint32_t c) { return a ^ b ^ c; }

// The key is the same for every lane of a vector, so it stays scalar and is bumped once a round.
template <class Word>
CERTCAL_HD PhiloxBlock<Word> philox4x32_10(PhiloxBlock<Word> counter, uint32_t key0,
                                           uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    Word high0, low0, high1, low1;
    multiply_high_low(counter.w0, kPhiloxMultiplier0, high0, low0);
    multiply_high_low(counter.w2, kPhiloxMultiplier1, high1, low1);
    counter.w0 = exclusive_or(high1, counter.w1, Word(key0));
    counter.w1 = low1;
    counter.w2 = exclusive_or(high0, counter.w3, Word(key1));
    counter.w3 = low0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

// How a vector of words is laid out while the rounds run on it; for scalars, as it is. A SIMD path may spread its lanes
// over registers in which the 64-bit products need no shuffling.
template <class Word>
struct PhiloxLayout {
  using Lanes = Word;
  static CERTCAL_HD Lanes spread(Word w) { return w; }
  static CERTCAL_HD Word gather(Lanes w) { return w; }
};

}  // namespace certcal
