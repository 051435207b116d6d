// SPDX-License-Identifier: MIT
// The scalar vocabulary of the noise transform: operations whose result IEEE 754 fixes to the last bit.
// cpu/simd_*.hpp defines the same names for vectors, so one text of the transform serves every path.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.hpp"

namespace certcal {

CERTCAL_HD float fused(float a, float b, float c) { return fmaf(a, b, c); }
CERTCAL_HD float square_root(float x) { return sqrtf(x); }
CERTCAL_HD float from_unsigned(uint32_t w) { return static_cast<float>(w); }
CERTCAL_HD float from_signed(uint32_t w) { return static_cast<float>(static_cast<int32_t>(w)); }

CERTCAL_HD uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

CERTCAL_HD float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The exponent of a positive normal float, given its bits.
CERTCAL_HD float exponent_of(uint32_t bits) { return from_signed(bits >> 23) - 127.0f; }

CERTCAL_HD uint32_t masked_or(uint32_t x, uint32_t mask, uint32_t bits) {
  return (x & mask) | bits;
}

// x, with the other sign where the top bit of `word` is set.
CERTCAL_HD float with_sign_flipped(float x, uint32_t word) {
  return float_of(bits_of(x) ^ (word & 0x80000000u));
}

template <class F>
struct NormalPair {
  F first, second;
};

// (a, b), or (b, a) where the bit is set.
CERTCAL_HD NormalPair<float> exchanged_where(uint32_t bit, float a, float b) {
  return bit != 0 ? NormalPair<float>{b, a} : NormalPair<float>{a, b};
}

}  // namespace certcal
