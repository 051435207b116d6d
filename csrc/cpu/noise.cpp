// SPDX-License-Identifier: MIT
#include "noise.hpp"

#include <algorithm>
#include <vector>

#include "clones.hpp"
#include "noise_kernel.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kPieceElements = 4096;  // a multiple of every path's step
constexpr int64_t kGrainPieces = 8;  // below some 10^5 elements a thread costs more than it saves
constexpr int64_t kTilePixels = 64;  // a multiple of this, where images are interleaved
constexpr int64_t kChunkDraws =
    kMostRows;  // share the first rounds of Philox, and the sorting of interleaved images

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class Value>
NoiseFunction<Value> rows_function(SimdPath path) {
#ifdef CERTCAL_X86
  return for_path<NoiseFunction<Value>>(path, noise_rows_scalar, noise_rows_avx2,
                                        noise_rows_avx512);
#else
  (void)path;
  return noise_rows_scalar;
#endif
}

// out[p * 3 + c] = plane c [p]. A loop with three known planes becomes shuffles of vectors.
template <class Value>
__attribute__((always_inline)) inline void interleave_three(const Value* __restrict planes,
                                                            int64_t room, int64_t size,
                                                            Value* __restrict out) {
  for (int64_t p = 0; p < size; ++p) {
    out[p * 3] = planes[p];
    out[p * 3 + 1] = planes[room + p];
    out[p * 3 + 2] = planes[2 * room + p];
  }
}
CERTCAL_CLONES void interleave(const float* planes, int64_t room, int64_t size, float* out) {
  interleave_three(planes, room, size, out);
}
CERTCAL_CLONES void interleave(const Float16* planes, int64_t room, int64_t size, Float16* out) {
  interleave_three(planes, room, size, out);
}
CERTCAL_CLONES void interleave(const BFloat16* planes, int64_t room, int64_t size, BFloat16* out) {
  interleave_three(planes, room, size, out);
}

template <class Value>
struct Noise {
  const float* images;
  const int64_t* sample_ids;
  float sigma;
  uint64_t seed;
  int64_t batch, elements;
  uint32_t first_draw;
  int64_t draws;
  Value* out;
  int threads;
  NoiseFunction<Value> write_rows;

  NoiseRows rows(int64_t sample, int64_t first, int64_t last) const {
    return {nullptr,
            sigma,
            seed,
            static_cast<uint64_t>(sample_ids[sample]),
            first_draw + static_cast<uint32_t>(first),
            last - first,
            0,
            0,
            0};
  }

  void add_to_rows() const {
    const int64_t pieces = ceil_div(elements, kPieceElements);
    const int64_t piece = std::min(kPieceElements, elements);
    const int64_t chunks = ceil_div(draws, kChunkDraws);
    const int64_t work = piece * std::min(draws, kChunkDraws);
    const int64_t grain = std::max<int64_t>(1, kGrainPieces * kPieceElements / work);
    parallel_for(batch * pieces * chunks, grain, threads, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        const int64_t b = item / (chunks * pieces);
        const int64_t begin = (item % pieces) * kPieceElements;
        const int64_t d = (item / pieces % chunks) * kChunkDraws;
        NoiseRows r = rows(b, d, std::min(d + kChunkDraws, draws));
        r.image = images + b * elements + begin;
        r.begin = begin;
        r.size = std::min(kPieceElements, elements - begin);
        r.stride = elements;
        write_rows(r, out + (b * draws + d) * elements + begin);
      }
    });
  }

  // A tile of pixels is sorted into planes once for several draws; the planes are rows as above, and their noisy values
  // go back to their places among the other channels.
  void add_to_interleaved(int64_t channels) const {
    const int64_t pixels = elements / channels;
    const int64_t tile =
        std::max<int64_t>(kTilePixels, kPieceElements / channels / kTilePixels * kTilePixels);
    const int64_t tiles = ceil_div(pixels, tile);
    const int64_t chunks = ceil_div(draws, kChunkDraws);
    const int64_t largest = std::min(tile, pixels);
    const int64_t work = largest * channels * std::min(draws, kChunkDraws);
    const int64_t grain = std::max<int64_t>(1, kGrainPieces * kPieceElements / work);
    parallel_for(batch * tiles * chunks, grain, threads, [&](int64_t first, int64_t last) {
      // Of each plane, after room for what lies before its first pixel in a Philox block: a row begins with a block.
      const int64_t room = kNormalsPerBlock + largest;
      std::vector<float> planes(static_cast<size_t>(channels * room));
      std::vector<Value> noisy(static_cast<size_t>(std::min(draws, kChunkDraws) * channels * room));
      for (int64_t item = first; item < last; ++item) {
        const int64_t b = item / (tiles * chunks);
        const int64_t begin = (item / chunks % tiles) * tile;
        const int64_t size = std::min(tile, pixels - begin);
        const float* image = images + b * elements + begin * channels;
        for (int64_t c = 0; c < channels; ++c) {
          float* plane = planes.data() + c * room + kNormalsPerBlock;
          for (int64_t p = 0; p < size; ++p) plane[p] = image[p * channels + c];
        }
        const int64_t d = (item % chunks) * kChunkDraws;
        NoiseRows r = rows(b, d, std::min(d + kChunkDraws, draws));
        r.stride = channels * room;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t element = c * pixels + begin;
          const int64_t ahead = element % kNormalsPerBlock;
          const int64_t at = c * room + kNormalsPerBlock - ahead;
          r.image = planes.data() + at;
          r.begin = element - ahead;
          r.size = ahead + size;
          write_rows(r, noisy.data() + at);
        }
        for (int64_t k = 0; k < r.draws; ++k) {
          const Value* sorted = noisy.data() + k * r.stride + kNormalsPerBlock;
          Value* target = out + (b * draws + d + k) * elements + begin * channels;
          if (channels == 3) {
            interleave(sorted, room, size, target);
          } else {
            for (int64_t c = 0; c < channels; ++c) {
              for (int64_t p = 0; p < size; ++p) target[p * channels + c] = sorted[c * room + p];
            }
          }
        }
      }
    });
  }
};

}  // namespace

template <class Value>
void add_noise_cpu(const float* images, const int64_t* sample_ids, float sigma, uint64_t seed,
                   int64_t batch, int64_t elements, uint32_t first_draw, int64_t draws, Value* out,
                   int threads, SimdPath path, int64_t channels) {
  if (batch <= 0 || elements <= 0 || draws <= 0) return;
  const Noise<Value> noise = {images,
                              sample_ids,
                              sigma,
                              seed,
                              batch,
                              elements,
                              first_draw,
                              draws,
                              out,
                              threads,
                              rows_function<Value>(path)};
  if (channels == 1) {
    noise.add_to_rows();
  } else {
    noise.add_to_interleaved(channels);
  }
}

template void add_noise_cpu<float>(const float*, const int64_t*, float, uint64_t, int64_t, int64_t,
                                   uint32_t, int64_t, float*, int, SimdPath, int64_t);
template void add_noise_cpu<Float16>(const float*, const int64_t*, float, uint64_t, int64_t,
                                     int64_t, uint32_t, int64_t, Float16*, int, SimdPath, int64_t);
template void add_noise_cpu<BFloat16>(const float*, const int64_t*, float, uint64_t, int64_t,
                                      int64_t, uint32_t, int64_t, BFloat16*, int, SimdPath,
                                      int64_t);

}  // namespace certcal
