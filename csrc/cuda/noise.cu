// SPDX-License-Identifier: MIT
#include "../core/normal.hpp"
#include "launch.hpp"
#include "noise.hpp"

namespace certcal {
namespace {

// A thread reads the elements of one Philox block once and writes them for so many draws.
constexpr int64_t kDrawsPerItem = 8;

struct alignas(16) FourFloats {
  float x[kNormalsPerBlock];
};

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % alignof(FourFloats) == 0;
}

// kVector: elements % 4 == 0 and both arrays are aligned, so that a block is read and written as 16 bytes.
template <bool kVector>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    add_noise_kernel(const float* __restrict__ images, const int64_t* __restrict__ sample_ids,
                     float sigma, uint64_t seed, int64_t batch, int64_t elements,
                     uint32_t first_draw, int64_t draws, float* __restrict__ out) {
  const int64_t blocks = ceil_div(elements, kNormalsPerBlock);
  const int64_t chunks = ceil_div(draws, kDrawsPerItem);
  const int64_t items = batch * chunks * blocks;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBlockThreads;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x; item < items;
       item += stride) {
    const int64_t line = item / blocks;
    const int64_t block = item - line * blocks;
    const int64_t b = line / chunks;
    const int64_t first = (line - b * chunks) * kDrawsPerItem;
    const int64_t last = first + kDrawsPerItem < draws ? first + kDrawsPerItem : draws;
    const int64_t begin = block * kNormalsPerBlock;
    const int64_t left = elements - begin;
    const int size = left < kNormalsPerBlock ? static_cast<int>(left) : kNormalsPerBlock;

    FourFloats image;
    if constexpr (kVector) {
      image = *reinterpret_cast<const FourFloats*>(images + b * elements + begin);
    } else {
      for (int k = 0; k < kNormalsPerBlock; ++k) {
        image.x[k] = k < size ? images[b * elements + begin + k] : 0.0f;
      }
    }
    const uint64_t sample_id = static_cast<uint64_t>(sample_ids[b]);
    float* target = out + (b * draws + first) * elements + begin;
    for (int64_t d = first; d < last; ++d, target += elements) {
      const NormalBlock<float> z = normal_block<float>(
          static_cast<uint32_t>(block), first_draw + static_cast<uint32_t>(d), sample_id, seed);
      const FourFloats noisy = {{perturb(image.x[0], sigma, z.z0), perturb(image.x[1], sigma, z.z1),
                                 perturb(image.x[2], sigma, z.z2),
                                 perturb(image.x[3], sigma, z.z3)}};
      if constexpr (kVector) {
        *reinterpret_cast<FourFloats*>(target) = noisy;
      } else {
        for (int k = 0; k < kNormalsPerBlock; ++k) {
          if (k < size) target[k] = noisy.x[k];
        }
      }
    }
  }
}

}  // namespace

cudaError_t launch_add_noise(const float* images, const int64_t* sample_ids, float sigma,
                             uint64_t seed, int64_t batch, int64_t elements, uint32_t first_draw,
                             int64_t draws, float* out, cudaStream_t stream) {
  if (batch <= 0 || elements <= 0 || draws <= 0) return cudaSuccess;
  const int64_t items =
      batch * ceil_div(draws, kDrawsPerItem) * ceil_div(elements, kNormalsPerBlock);
  const bool vector = elements % kNormalsPerBlock == 0 && is_aligned(images) && is_aligned(out);
  return launch(vector ? add_noise_kernel<true> : add_noise_kernel<false>,
                ceil_div(items, kBlockThreads), 0, stream, images, sample_ids, sigma, seed, batch,
                elements, first_draw, draws, out);
}

}  // namespace certcal
