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

// One step from `seed`, near 1 / sqrt(x), to the square root of x. From a GPU's own approximation it leads to the rounded
// root: these are the instructions that nvcc makes of sqrtf, but for the branch to another way for 0 and far exponents
// (tools/check_ptxas.py compares). From the rounded 1 / sqrt(x) it does so too, for every x (csrc/tests/test_normal.cpp).
CERTCAL_HD float square_root_from(float x, float seed) {
  const float root = x * seed;
  return fused(fused(-root, root, x), 0.5f * seed, root);
}

inline constexpr float kLeastSquare = 0x1p-40f;

// Of 0, and of numbers from kLeastSquare on that are not near infinity: sqrtf, on the device without its branch.
CERTCAL_HD float square_root(float x) {
#ifdef __CUDA_ARCH__
  float seed;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(seed) : "f"(fmaxf(x, kLeastSquare)));
  return square_root_from(x, seed);
#else
  return sqrtf(x);
#endif
}
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
