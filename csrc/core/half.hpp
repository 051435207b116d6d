// SPDX-License-Identifier: MIT
// Half precision to float32, which is exact, and back: float32 to half precision, rounded to nearest, ties to even: overflow gives infinity, small values become subnormal.
// On every path and device the same bits, those of torch's .to(dtype) and of NumPy's astype; NaN stays NaN, but which
// one is left to the device.
#pragma once

#include <cstdint>

#include "host_device.hpp"
#include "scalar.hpp"

namespace certcal {

struct Float16 {  // IEEE 754 binary16
  uint16_t bits;
};
struct BFloat16 {  // the upper half of a binary32
  uint16_t bits;
};

CERTCAL_HD void round_to(float x, float& out) { out = x; }

CERTCAL_HD void round_to(float x, Float16& out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  const uint32_t sign = bits_of(x) >> 16 & 0x8000u;
  uint32_t magnitude = bits_of(x) & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {
    magnitude = 0x7E00u | (magnitude >> 13 & 0x3FFu);
  } else if (magnitude >= 0x47800000u) {  // 2^16; from 65520 on, the rounding below carries there
    magnitude = 0x7C00u;
  } else if (magnitude < 0x38800000u) {  // 2^-14: next to 1/2 a float counts in steps of 2^-24
    magnitude = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    magnitude = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  }
  out.bits = static_cast<uint16_t>(sign | magnitude);
#endif
}

CERTCAL_HD void round_to(float x, BFloat16& out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  const uint32_t bits = bits_of(x);
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  const uint32_t rounded = is_nan ? bits | 0x400000u : bits + 0x7FFFu + (bits >> 16 & 1u);
  out.bits = static_cast<uint16_t>(rounded >> 16);
#endif
}

// Two values in one word, the first in its lower half: one instruction on the device.
CERTCAL_HD uint32_t rounded_pair(float first, float second, Float16) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  Float16 low, high;
  round_to(first, low);
  round_to(second, high);
  return static_cast<uint32_t>(high.bits) << 16 | low.bits;
#endif
}

CERTCAL_HD uint32_t rounded_pair(float first, float second, BFloat16) {
#ifdef __CUDA_ARCH__
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  BFloat16 low, high;
  round_to(first, low);
  round_to(second, high);
  return static_cast<uint32_t>(high.bits) << 16 | low.bits;
#endif
}

// What logits are compared and added in, by the type that they are stored in.
template <class Stored>
struct Wide {
  using Type = Stored;
};
template <>
struct Wide<Float16> {
  using Type = float;
};
template <>
struct Wide<BFloat16> {
  using Type = float;
};
template <class Stored>
using WideOf = typename Wide<Stored>::Type;

CERTCAL_HD float widened(float x) { return x; }
CERTCAL_HD double widened(double x) { return x; }

CERTCAL_HD float widened(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

CERTCAL_HD float widened(Float16 x) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  // As a float, the bits are a number 2^112 times too small, subnormals included.
  const float scaled = float_of(magnitude << 13) * 0x1p+112f;
  return float_of(sign | bits_of(scaled));
#endif
}

}  // namespace certcal
