// SPDX-License-Identifier: MIT
// The loop over one image, written once for every vector width. Each SIMD path is a translation unit of its own
// (noise_avx2.cpp, ...), compiled with its own instruction set, that instantiates this with its Lanes.
#pragma once

#include <cstdint>

#include "../core/half.hpp"
#include "../core/normal.hpp"

namespace certcal {

// The elements [begin, begin + size) of one draw of one image, which `image` and `out` point to; begin is a multiple of
// kNormalsPerBlock. Each is instantiated for float, Float16 and BFloat16.
template <class Value>
using NoiseRow = void (*)(const float* image, float sigma, uint64_t seed, uint64_t sample_id,
                          uint32_t draw, int64_t begin, int64_t size, Value* out);

template <class Value>
void noise_row_scalar(const float* image, float sigma, uint64_t seed, uint64_t sample_id,
                      uint32_t draw, int64_t begin, int64_t size, Value* out);
#ifdef CERTCAL_X86
template <class Value>
void noise_row_avx2(const float* image, float sigma, uint64_t seed, uint64_t sample_id,
                    uint32_t draw, int64_t begin, int64_t size, Value* out);
template <class Value>
void noise_row_avx512(const float* image, float sigma, uint64_t seed, uint64_t sample_id,
                      uint32_t draw, int64_t begin, int64_t size, Value* out);
#endif

// Lanes gives: Float and Word (vectors of kWidth lanes), block_order() -> Word (which block each lane computes, so that
// after transpose(z) the four vectors hold runs of neighbouring elements), and load(p, k), store(p, k, x) for the k-th of
// the four vectors of a step that begins at p; store() rounds to the type that p points to, as round_to() does.
template <class Lanes, class Value>
void noise_row(const float* image, float sigma, uint64_t seed, uint64_t sample_id, uint32_t draw,
               int64_t begin, int64_t size, Value* out) {
  using Float = typename Lanes::Float;
  using Word = typename Lanes::Word;
  constexpr int kWidth = Lanes::kWidth;
  constexpr int kStep = kWidth * kNormalsPerBlock;
  const Float sigmas(sigma);
  const Word order = Lanes::block_order();

  const auto words_at = [&](int64_t element) {
    const Word block = Word(static_cast<uint32_t>(element / kNormalsPerBlock)) + order;
    return normal_words(block, draw, sample_id, seed);
  };

  // The words of the next step are computed beside the normals of this one: each is a long chain of dependent
  // operations, and the processor fills the waiting of one with the other.
  PhiloxBlock<Word> words = words_at(begin);
  const int64_t end = begin + size;
  for (int64_t e = begin; e < end; e += kStep, image += kStep, out += kStep) {
    const PhiloxBlock<Word> next = words_at(e + kStep);
    const NormalBlock<Float> normals = normals_of<Float>(words);
    words = next;
    Float z[kNormalsPerBlock] = {normals.z0, normals.z1, normals.z2, normals.z3};
    Lanes::transpose(z);
    if (end - e >= kStep) {
      for (int k = 0; k < kNormalsPerBlock; ++k) {
        Lanes::store(out, k, perturb(Lanes::load(image, k), sigmas, z[k]));
      }
    } else {
      alignas(64) float tail[kStep];
      for (int k = 0; k < kNormalsPerBlock; ++k) Lanes::store(tail, k, z[k]);
      for (int64_t t = 0; t < end - e; ++t) round_to(perturb(image[t], sigma, tail[t]), out[t]);
    }
  }
}

}  // namespace certcal
