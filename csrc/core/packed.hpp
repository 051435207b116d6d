// SPDX-License-Identifier: MIT
// Logits in words of 32 bits: two halves or one float. What the device does with both halves in one instruction.
//
// Maxima and minima are those of the numbers, either zero where they are +0 and -0, and anything where one is NaN:
// seen_infinite() tells such words apart from finite ones, and no vote is taken from them.
#pragma once

#include <cmath>
#include <cstdint>

#include "half.hpp"
#include "host_device.hpp"

namespace certcal {

template <class Stored>
inline constexpr int kValuesOfWord = static_cast<int>(sizeof(uint32_t) / sizeof(Stored));

// The value at `place` of a word: 0, or 1 for the upper half.
CERTCAL_HD float value_at(uint32_t word, int, float) { return float_of(word); }
CERTCAL_HD float value_at(uint32_t word, int place, BFloat16) {
  return float_of(place == 0 ? word << 16 : word & 0xFFFF0000u);
}
CERTCAL_HD float value_at(uint32_t word, int place, Float16) {
  return widened(Float16{static_cast<uint16_t>(place == 0 ? word : word >> 16)});
}

#ifdef __CUDA_ARCH__

#define CERTCAL_PACKED(Stored, type)                                                 \
  __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b, Stored) {       \
    uint32_t word;                                                                   \
    asm("max." type " %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));                   \
    return word;                                                                     \
  }                                                                                  \
  __device__ __forceinline__ uint32_t smaller(uint32_t a, uint32_t b, Stored) {      \
    uint32_t word;                                                                   \
    asm("min." type " %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));                   \
    return word;                                                                     \
  }                                                                                  \
  __device__ __forceinline__ uint32_t times_zero(uint32_t a, uint32_t sum, Stored) { \
    uint32_t word;                                                                   \
    asm("fma.rn." type " %0, %1, %2, %3;" : "=r"(word) : "r"(a), "r"(0u), "r"(sum)); \
    return word;                                                                     \
  }
CERTCAL_PACKED(BFloat16, "bf16x2")
CERTCAL_PACKED(Float16, "f16x2")
#undef CERTCAL_PACKED

#else

template <class Half>
CERTCAL_HD uint32_t of_each_half(uint32_t a, uint32_t b, bool larger_wanted, Half type) {
  uint32_t word = 0;
  for (int place = 0; place < 2; ++place) {
    const bool first = (value_at(a, place, type) > value_at(b, place, type)) == larger_wanted;
    word |= (first ? a : b) & (place == 0 ? 0xFFFFu : 0xFFFF0000u);
  }
  return word;
}
template <class Half>
CERTCAL_HD uint32_t larger(uint32_t a, uint32_t b, Half type) {
  return of_each_half(a, b, true, type);
}
template <class Half>
CERTCAL_HD uint32_t smaller(uint32_t a, uint32_t b, Half type) {
  return of_each_half(a, b, false, type);
}
template <class Half>
CERTCAL_HD uint32_t times_zero(uint32_t a, uint32_t sum, Half type) {
  for (int place = 0; place < 2; ++place) {
    if (!std::isfinite(value_at(a, place, type))) sum |= 0x7FFFu << 16 * place;
  }
  return sum;
}

#endif

CERTCAL_HD uint32_t larger(uint32_t a, uint32_t b, float) {
  return bits_of(fmaxf(float_of(a), float_of(b)));
}
CERTCAL_HD uint32_t smaller(uint32_t a, uint32_t b, float) {
  return bits_of(fminf(float_of(a), float_of(b)));
}
// sum + 0 * a: a sum that began with 0 stays 0 as long as all words are finite, and is NaN from then on.
CERTCAL_HD uint32_t times_zero(uint32_t a, uint32_t sum, float) {
  return bits_of(fused(float_of(a), 0.0f, float_of(sum)));
}

CERTCAL_HD bool seen_infinite(uint32_t sum, float) { return (sum & 0x7FFFFFFFu) != 0; }
template <class Half>
CERTCAL_HD bool seen_infinite(uint32_t sum, Half) {
  return (sum & 0x7FFF7FFFu) != 0;
}

// Minus infinity in each place.
CERTCAL_HD uint32_t least_word(float) { return 0xFF800000u; }
CERTCAL_HD uint32_t least_word(BFloat16) { return 0xFF80FF80u; }
CERTCAL_HD uint32_t least_word(Float16) { return 0xFC00FC00u; }

// Whole numbers in the order of the floats they are made of (-0 below +0), and back.
CERTCAL_HD uint32_t ordered(float x) {
  const uint32_t bits = bits_of(x);
  return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u);
}
CERTCAL_HD float from_ordered(uint32_t key) {
  return float_of(key ^ ((key >> 31) != 0 ? 0x80000000u : 0xFFFFFFFFu));
}

}  // namespace certcal
