// SPDX-License-Identifier: MIT
#include "../core/half.hpp"
#include "../core/normal.hpp"
#include "float_pair.hpp"
#include "launch.hpp"
#include "noise.hpp"

namespace certcal {
namespace {

template <class Value>
constexpr int kVectorValues = static_cast<int>(sizeof(Vector) / sizeof(Value));

// The values of several channels, beside as many of x, want more registers, in fewer blocks.
template <int kChannels>
constexpr int kBlocksOfThreads = kChannels > 1 ? 2 : kBlocksPerProcessor;

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % alignof(Vector) == 0;
}

// What a thread keeps of all its blocks of Philox from draw to draw fills the registers of the newest devices, and one more
// is made again each time.
__device__ uint32_t made_again(uint32_t block) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  asm volatile("" : "+r"(block));
#endif
  return block;
}

// A word of values: two halves, or one float.
__device__ uint32_t packed(const float* x, float) { return bits_of(x[0]); }
template <class Half>
__device__ uint32_t packed(const float* x, Half type) {
  return rounded_pair(x[0], x[1], type);
}

// What all items of a launch share. Draws that the counter does not hold have a sigma of NaN, and with it all their values.
struct Start {
  uint32_t first_draw;
  float sigma;
};

__device__ Start start_at(uint32_t first_draw, const int64_t* draw_offset, int64_t draws,
                          float sigma) {
  if (draw_offset == nullptr) return {first_draw, sigma};
  constexpr uint32_t kNaN = 0x7FC00000u;
  const int64_t offset = *draw_offset;
  const int64_t least = -static_cast<int64_t>(first_draw);
  const bool held = offset >= least && offset <= least + (int64_t{1} << 32) - draws;
  return {first_draw + static_cast<uint32_t>(offset), held ? sigma : float_of(kNaN)};
}

// The normals of one Philox block, as normal_block of core/normal.hpp has them, both pairs at once.
__device__ NormalBlock<float> normals_at(uint32_t block, uint32_t draw, uint64_t sample_id,
                                         const PhiloxRoundKeys& keys) {
  const PhiloxBlock<uint32_t> w =
      philox4x32_10(PhiloxBlock<uint32_t>{block, draw, static_cast<uint32_t>(sample_id),
                                          static_cast<uint32_t>(sample_id >> 32)},
                    keys);
  const NormalPair<FloatPair> z =
      normal_pair<FloatPair>(WordPair(w.w0, w.w2), WordPair(w.w1, w.w3));
  return {z.first.a, z.second.a, z.first.b, z.second.b};
}

// The draws of one image that one item of work writes.
struct Item {
  int64_t b, group, first, last;
};

// Items in the order of memory: the groups of elements of one image and chunk of draws are neighbours.
__device__ Item item_at(int64_t item, int64_t groups, int64_t draws, int64_t draws_per_item) {
  const int64_t chunks = ceil_div(draws, draws_per_item);
  const int64_t line = item / groups;
  const int64_t b = line / chunks;
  const int64_t first = (line - b * chunks) * draws_per_item;
  const int64_t last = first + draws_per_item < draws ? first + draws_per_item : draws;
  return {b, item - line * groups, first, last};
}

// A thread reads the same few pixels of all channels once, and writes them for its draws, a vector at a time. pixels =
// elements / kChannels is a multiple of the pixels of a thread, and both arrays are aligned.
template <class Value, int kChannels>
__global__ void __launch_bounds__(kBlockThreads, kBlocksOfThreads<kChannels>)
    add_noise_vector_kernel(const float* __restrict__ images,
                            const int64_t* __restrict__ sample_ids, float sigma,
                            PhiloxRoundKeys keys, int64_t batch, int64_t elements,
                            uint32_t first_draw, const int64_t* __restrict__ draw_offset,
                            int64_t draws, int64_t draws_per_item, Value* __restrict__ out) {
  constexpr int kPixels = kVectorValues<Value>;
  constexpr int kElements = kPixels * kChannels;
  constexpr int kBlocks = kPixels / kNormalsPerBlock;  // of Philox, in each channel
  const int64_t groups = elements / kElements;
  const int64_t blocks_per_channel = elements / (kChannels * kNormalsPerBlock);
  const int64_t items = batch * ceil_div(draws, draws_per_item) * groups;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBlockThreads;
  const Start start = start_at(first_draw, draw_offset, draws, sigma);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x; i < items;
       i += stride) {
    const Item item = item_at(i, groups, draws, draws_per_item);
    const int64_t begin = item.group * kElements;
    float image[kElements];
    const Vector* source = reinterpret_cast<const Vector*>(images + item.b * elements + begin);
#pragma unroll
    for (int v = 0; v < kElements / 4; ++v) {
      const Vector read = source[v];
#pragma unroll
      for (int k = 0; k < 4; ++k) image[4 * v + k] = float_of(read.word[k]);
    }
    const uint64_t sample_id = static_cast<uint64_t>(sample_ids[item.b]);
    Value* target = out + (item.b * draws + item.first) * elements + begin;
    // The draws wrap where there are 2^32 of them; an item has at least one.
    uint32_t draw = start.first_draw + static_cast<uint32_t>(item.first);
    const uint32_t end = start.first_draw + static_cast<uint32_t>(item.last);
    do {
      uint32_t words[kChannels * 4];
#pragma unroll
      for (int q = 0; q < kBlocks; ++q) {
        constexpr int kValues = kNormalsPerBlock * kChannels;
        constexpr int kWords = kValues * static_cast<int>(sizeof(Value)) / 4;
        float noisy[kValues];
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          auto block = static_cast<uint32_t>(c * blocks_per_channel + item.group * kBlocks + q);
          if (kBlocks > 1 && c == 1 && q == 1) block = made_again(block);
          const NormalBlock<float> z = normals_at(block, draw, sample_id, keys);
          const float normals[kNormalsPerBlock] = {z.z0, z.z1, z.z2, z.z3};
#pragma unroll
          for (int k = 0; k < kNormalsPerBlock; ++k) {
            const int at = k * kChannels + c;
            noisy[at] = perturb(image[q * kValues + at], start.sigma, normals[k]);
          }
        }
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
          words[q * kWords + w] = packed(noisy + w * (kValues / kWords), Value{});
        }
      }
#pragma unroll
      for (int v = 0; v < kChannels; ++v) {
        reinterpret_cast<Vector*>(target)[v] = {
            {words[4 * v], words[4 * v + 1], words[4 * v + 2], words[4 * v + 3]}};
      }
      target += elements;
    } while (++draw != end);
  }
}

// Any sizes, alignment and number of channels: a thread takes the four elements of one Philox block.
template <class Value>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    add_noise_kernel(const float* __restrict__ images, const int64_t* __restrict__ sample_ids,
                     float sigma, PhiloxRoundKeys keys, int64_t batch, int64_t elements,
                     uint32_t first_draw, const int64_t* __restrict__ draw_offset, int64_t draws,
                     int64_t draws_per_item, int64_t channels, Value* __restrict__ out) {
  const int64_t blocks = ceil_div(elements, kNormalsPerBlock);
  const int64_t pixels = elements / channels;
  const int64_t items = batch * ceil_div(draws, draws_per_item) * blocks;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBlockThreads;
  const Start start = start_at(first_draw, draw_offset, draws, sigma);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x; i < items;
       i += stride) {
    const Item item = item_at(i, blocks, draws, draws_per_item);
    const int64_t begin = item.group * kNormalsPerBlock;
    const int64_t left = elements - begin;
    const int size = left < kNormalsPerBlock ? static_cast<int>(left) : kNormalsPerBlock;
    int64_t place[kNormalsPerBlock];
    float image[kNormalsPerBlock];
    int64_t channel = begin / pixels;
    int64_t pixel = begin - channel * pixels;
#pragma unroll
    for (int k = 0; k < kNormalsPerBlock; ++k) {
      place[k] = pixel * channels + channel;
      image[k] = k < size ? images[item.b * elements + place[k]] : 0.0f;
      if (++pixel == pixels) {
        pixel = 0;
        ++channel;
      }
    }
    const uint64_t sample_id = static_cast<uint64_t>(sample_ids[item.b]);
    Value* target = out + (item.b * draws + item.first) * elements;
    // The draws wrap where there are 2^32 of them; an item has at least one.
    uint32_t draw = start.first_draw + static_cast<uint32_t>(item.first);
    const uint32_t end = start.first_draw + static_cast<uint32_t>(item.last);
    do {
      const NormalBlock<float> z =
          normals_at(static_cast<uint32_t>(item.group), draw, sample_id, keys);
      const float normals[kNormalsPerBlock] = {z.z0, z.z1, z.z2, z.z3};
#pragma unroll
      for (int k = 0; k < kNormalsPerBlock; ++k) {
        if (k < size) round_to(perturb(image[k], start.sigma, normals[k]), target[place[k]]);
      }
      target += elements;
    } while (++draw != end);
  }
}

// x is read once for all draws. Only where that leaves the device short of threads are the draws split: into pieces of a few
// as long as they fill it several times over, and into single draws to fill it once. x is then so small that it is read
// again from a cache.
int64_t draws_per_item(int64_t items_of_one_chunk, int64_t draws, int64_t at_once) {
  constexpr int64_t kRounds = 4;
  constexpr int64_t kFewDraws = 8;
  const int64_t several = ceil_div(kRounds * at_once, items_of_one_chunk);
  const int64_t pieces_of_a_few = ceil_div(draws, kFewDraws);
  const int64_t once = ceil_div(at_once, items_of_one_chunk);
  const int64_t pieces = several < pieces_of_a_few ? several : pieces_of_a_few;
  const int64_t chunks = pieces > once ? pieces : once;
  return chunks >= draws ? 1 : ceil_div(draws, chunks);
}

}  // namespace

template <class Value>
cudaError_t launch_add_noise(const float* images, const int64_t* sample_ids, float sigma,
                             uint64_t seed, int64_t batch, int64_t elements, uint32_t first_draw,
                             int64_t draws, Value* out, cudaStream_t stream, int64_t channels,
                             const int64_t* draw_offset) {
  if (batch <= 0 || elements <= 0 || draws <= 0) return cudaSuccess;
  const bool vector = (channels == 1 || channels == 3) && is_aligned(images) && is_aligned(out) &&
                      elements % (channels * kVectorValues<Value>) == 0;
  const int64_t group = vector ? channels * kVectorValues<Value> : kNormalsPerBlock;
  const int64_t items = batch * ceil_div(elements, group);
  const int64_t each = draws_per_item(
      items, draws,
      threads_at_once(vector && channels > 1 ? kBlocksOfThreads<3> : kBlocksPerProcessor));
  const int64_t tiles = ceil_div(items * ceil_div(draws, each), kBlockThreads);
  const PhiloxRoundKeys keys(PhiloxKey::of(seed));
  if (!vector) {
    return launch(add_noise_kernel<Value>, tiles, stream, images, sample_ids, sigma, keys, batch,
                  elements, first_draw, draw_offset, draws, each, channels, out);
  }
  return launch(
      channels == 1 ? add_noise_vector_kernel<Value, 1> : add_noise_vector_kernel<Value, 3>, tiles,
      stream, images, sample_ids, sigma, keys, batch, elements, first_draw, draw_offset, draws,
      each, out);
}

template cudaError_t launch_add_noise<float>(const float*, const int64_t*, float, uint64_t, int64_t,
                                             int64_t, uint32_t, int64_t, float*, cudaStream_t,
                                             int64_t, const int64_t*);
template cudaError_t launch_add_noise<Float16>(const float*, const int64_t*, float, uint64_t,
                                               int64_t, int64_t, uint32_t, int64_t, Float16*,
                                               cudaStream_t, int64_t, const int64_t*);
template cudaError_t launch_add_noise<BFloat16>(const float*, const int64_t*, float, uint64_t,
                                                int64_t, int64_t, uint32_t, int64_t, BFloat16*,
                                                cudaStream_t, int64_t, const int64_t*);

}  // namespace certcal
