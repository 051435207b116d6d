// SPDX-License-Identifier: MIT
// Two floats and two words side by side, for the transform of core/normal.hpp: the newest devices have an instruction for both
// of a pair of sums, products and fused products, each rounded as by itself. Elsewhere these are two instructions.
#pragma once

#include <cstdint>

#include "../core/host_device.hpp"
#include "../core/scalar.hpp"

namespace certcal {

struct WordPair {
  uint32_t a, b;

  WordPair() = default;
  CERTCAL_HD WordPair(uint32_t first, uint32_t second) : a(first), b(second) {}
  CERTCAL_HD explicit WordPair(uint32_t both) : a(both), b(both) {}
};
CERTCAL_HD WordPair operator+(WordPair x, WordPair y) { return {x.a + y.a, x.b + y.b}; }
CERTCAL_HD WordPair operator-(WordPair x, WordPair y) { return {x.a - y.a, x.b - y.b}; }
CERTCAL_HD WordPair operator&(WordPair x, WordPair y) { return {x.a & y.a, x.b & y.b}; }

struct FloatPair {
  float a, b;

  FloatPair() = default;
  CERTCAL_HD FloatPair(float first, float second) : a(first), b(second) {}
  CERTCAL_HD explicit FloatPair(float both) : a(both), b(both) {}
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000

__device__ __forceinline__ uint64_t joined(FloatPair x) {
  uint64_t both;
  asm("mov.b64 %0, {%1, %2};" : "=l"(both) : "f"(x.a), "f"(x.b));
  return both;
}
__device__ __forceinline__ FloatPair parted(uint64_t both) {
  FloatPair x;
  asm("mov.b64 {%0, %1}, %2;" : "=f"(x.a), "=f"(x.b) : "l"(both));
  return x;
}
__device__ __forceinline__ FloatPair operator+(FloatPair x, FloatPair y) {
  uint64_t both;
  asm("add.rn.f32x2 %0, %1, %2;" : "=l"(both) : "l"(joined(x)), "l"(joined(y)));
  return parted(both);
}
__device__ __forceinline__ FloatPair operator*(FloatPair x, FloatPair y) {
  uint64_t both;
  asm("mul.rn.f32x2 %0, %1, %2;" : "=l"(both) : "l"(joined(x)), "l"(joined(y)));
  return parted(both);
}
__device__ __forceinline__ FloatPair fused(FloatPair x, FloatPair y, FloatPair z) {
  uint64_t both;
  asm("fma.rn.f32x2 %0, %1, %2, %3;" : "=l"(both) : "l"(joined(x)), "l"(joined(y)), "l"(joined(z)));
  return parted(both);
}

#else

CERTCAL_HD FloatPair operator+(FloatPair x, FloatPair y) { return {x.a + y.a, x.b + y.b}; }
CERTCAL_HD FloatPair operator*(FloatPair x, FloatPair y) { return {x.a * y.a, x.b * y.b}; }
CERTCAL_HD FloatPair fused(FloatPair x, FloatPair y, FloatPair z) {
  return {fused(x.a, y.a, z.a), fused(x.b, y.b, z.b)};
}

#endif

CERTCAL_HD FloatPair operator-(FloatPair x, FloatPair y) { return x + FloatPair(-y.a, -y.b); }
CERTCAL_HD FloatPair square_root(FloatPair x) { return {square_root(x.a), square_root(x.b)}; }
CERTCAL_HD FloatPair from_unsigned(WordPair w) { return {from_unsigned(w.a), from_unsigned(w.b)}; }
CERTCAL_HD FloatPair from_signed(WordPair w) { return {from_signed(w.a), from_signed(w.b)}; }
CERTCAL_HD WordPair bits_of(FloatPair x) { return {bits_of(x.a), bits_of(x.b)}; }
CERTCAL_HD FloatPair float_of(WordPair w) { return {float_of(w.a), float_of(w.b)}; }
CERTCAL_HD FloatPair exponent_of(WordPair w) { return {exponent_of(w.a), exponent_of(w.b)}; }
CERTCAL_HD WordPair masked_or(WordPair x, uint32_t mask, uint32_t bits) {
  return {masked_or(x.a, mask, bits), masked_or(x.b, mask, bits)};
}
CERTCAL_HD FloatPair with_sign_flipped(FloatPair x, WordPair w) {
  return {with_sign_flipped(x.a, w.a), with_sign_flipped(x.b, w.b)};
}
CERTCAL_HD NormalPair<FloatPair> exchanged_where(WordPair bit, FloatPair x, FloatPair y) {
  const NormalPair<float> a = exchanged_where(bit.a, x.a, y.a);
  const NormalPair<float> b = exchanged_where(bit.b, x.b, y.b);
  return {{a.first, b.first}, {a.second, b.second}};
}

}  // namespace certcal
