// SPDX-License-Identifier: MIT
// The loop over one image, written once for every vector width. Each SIMD path is a translation unit of its own
// (noise_avx2.cpp, ...), compiled with its own instruction set, that instantiates this with its Lanes.
#pragma once

#include <cstdint>

#include "../core/half.hpp"
#include "../core/normal.hpp"

namespace certcal {

// The elements [begin, begin + size) of 1 to kMostRows draws of one image; begin is a multiple of kNormalsPerBlock. `image` points to
// the first of them, and so does `out`, where that of the next draw is `stride` further.
struct NoiseRows {
  const float* image;
  float sigma;
  uint64_t seed, sample_id;
  uint32_t first_draw;
  int64_t draws, begin, size, stride;
};

// Each is instantiated for float, Float16 and BFloat16.
template <class Value>
using NoiseFunction = void (*)(const NoiseRows& rows, Value* out);

template <class Value>
void noise_rows_scalar(const NoiseRows& rows, Value* out);
#ifdef CERTCAL_X86
template <class Value>
void noise_rows_avx2(const NoiseRows& rows, Value* out);
template <class Value>
void noise_rows_avx512(const NoiseRows& rows, Value* out);
#endif

// The last round of Philox on spread lanes: see PhiloxLayout of the SIMD paths.
template <class Word>
PhiloxBlock<Word> gathered_round(const PhiloxBlock<typename PhiloxLayout<Word>::Lanes>& counter,
                                 PhiloxKey key) {
  using Layout = PhiloxLayout<Word>;
  typename Layout::Lanes high, product0, product1;
  multiply_high_low(counter.w0, kPhiloxMultiplier0, high, product0);
  multiply_high_low(counter.w2, kPhiloxMultiplier1, high, product1);
  return {exclusive_or(Layout::high_words(product1), Layout::low_words(counter.w1), Word(key.k0)),
          Layout::low_words(product1),
          exclusive_or(Layout::high_words(product0), Layout::low_words(counter.w3), Word(key.k1)),
          Layout::low_words(product0)};
}

inline constexpr int64_t kMostRows = 8;  // draws of one call

// Normals of one draw beside the words of the next: Philox keeps multipliers and shifters busy, the transform the fma
// units, and each is a chain of dependent operations. One after the other, a processor that looks some sixty operations
// ahead hardly overlaps them (Zen 4: 148 cycles for 64 elements, beside one another 134).
template <class Float, class Word>
struct NoiseStep {
  using Layout = PhiloxLayout<Word>;
  using Counter = PhiloxBlock<typename Layout::Lanes>;

  PhiloxKey key;
  PhiloxBlock<Word> words;  // of the draw whose turn is next

  // The normals of `words`, which then become those of `counter`.
  __attribute__((always_inline)) void take(Counter counter, Float (&z)[kNormalsPerBlock]) {
    NormalStages<Float, Word> a, b;
    a.reduce(words.w0, words.w1);
    b.reduce(words.w2, words.w3);
    run<kPhiloxSharedRounds, 5>(counter);
    a.logarithm();
    b.logarithm();
    run<5, 7>(counter);
    a.sine_and_cosine();
    b.sine_and_cosine();
    run<7, 8>(counter);
    a.radius();
    b.radius();
    run<8, 9>(counter);
    a.turn();
    b.turn();
    words = Layout::last_round(counter, key.after(9));
    const NormalPair<Float> first = a.pair(), second = b.pair();
    z[0] = first.first;
    z[1] = first.second;
    z[2] = second.first;
    z[3] = second.second;
  }

  __attribute__((always_inline)) void start(Counter counter) {
    run<kPhiloxSharedRounds, 9>(counter);
    words = Layout::last_round(counter, key.after(9));
  }

 private:
  static_assert(kPhiloxRounds == 10);
  template <int kFirst, int kLast>
  __attribute__((always_inline)) void run(Counter& counter) const {
    for (int r = kFirst; r < kLast; ++r) counter = philox_round(counter, key.after(r));
  }
};

// Lanes gives: Float and Word (vectors of kWidth lanes), block_order() -> Word (which block each lane computes, so that
// after transpose(z) the four vectors hold runs of neighbouring elements), and load(p, k), store(p, k, x) for the k-th of
// the four vectors of a step that begins at p; store() rounds to the type that p points to, as round_to() does.
template <class Lanes, class Value>
void noise_rows(const NoiseRows& rows, Value* out) {
  using Float = typename Lanes::Float;
  using Word = typename Lanes::Word;
  constexpr int kStep = Lanes::kWidth * kNormalsPerBlock;
  const Float sigmas(rows.sigma);
  const Word order = Lanes::block_order();
  const PhiloxKey key{static_cast<uint32_t>(rows.seed), static_cast<uint32_t>(rows.seed >> 32)};
  const int64_t draws = rows.draws;
  PhiloxOfDraw of_draw[kMostRows];
  for (int64_t d = 0; d < draws; ++d) {
    of_draw[d] = PhiloxOfDraw(rows.first_draw + static_cast<uint32_t>(d), rows.sample_id, key);
  }
  const auto blocks_at = [&](int64_t element) {
    const Word block = Word(static_cast<uint32_t>(element / kNormalsPerBlock)) + order;
    return PhiloxOfBlocks<Word>(block, rows.sample_id, key);
  };

  const float* image = rows.image;
  const int64_t end = rows.begin + rows.size;
  int64_t e = rows.begin;
  PhiloxOfBlocks<Word> blocks = blocks_at(e);
  NoiseStep<Float, Word> step;
  step.key = key;
  step.start(blocks.counter(of_draw[0]));
  Float z[kNormalsPerBlock];
  for (; e + kStep <= end; e += kStep, image += kStep, out += kStep) {
    const auto write = [&](int64_t d) {
      Lanes::transpose(z);
      Value* target = out + d * rows.stride;
      for (int k = 0; k < kNormalsPerBlock; ++k) {
        Lanes::store(target, k, perturb(Lanes::load(image, k), sigmas, z[k]));
      }
    };
    for (int64_t d = 0; d + 1 < draws; ++d) {
      step.take(blocks.counter(of_draw[d + 1]), z);
      write(d);
    }
    blocks = blocks_at(e + kStep);
    step.take(blocks.counter(of_draw[0]), z);
    write(draws - 1);
  }
  if (e == end) return;
  for (int64_t d = 0; d < draws; ++d) {
    alignas(64) float tail[kStep];
    step.take(blocks.counter(of_draw[d + 1 < draws ? d + 1 : 0]), z);
    Lanes::transpose(z);
    for (int k = 0; k < kNormalsPerBlock; ++k) Lanes::store(tail, k, z[k]);
    for (int64_t t = 0; t < end - e; ++t) {
      round_to(perturb(image[t], rows.sigma, tail[t]), out[d * rows.stride + t]);
    }
  }
}

}  // namespace certcal
