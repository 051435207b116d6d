// SPDX-License-Identifier: MIT
#include "../core/certify.hpp"
#include "certify.hpp"
#include "launch.hpp"

namespace certcal {
namespace {

constexpr int64_t kGroupsPerTile = 2048;

__device__ const double kDeviceCdfTable[kCdfRows * kCdfTerms] = {
#include "../core/normal_cdf_table.inc"
};

// counts[g, c] += the samples of group g with correctness c. Lanes of a warp that meet the same word add once.
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    count_groups_kernel(const int64_t* __restrict__ group, const uint8_t* __restrict__ correct,
                        int64_t samples, int64_t* counts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBlockThreads;
  // The bound is the same for all lanes of a warp: the ballot needs whole warps.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x - lane;
       first < samples; first += stride) {
    const int64_t n = first + lane;
    const bool active = n < samples;
    const unsigned participants = __ballot_sync(kFullWarp, active);
    if (!active) continue;
    const int64_t word = 2 * group[n] + (correct[n] != 0 ? 1 : 0);
    const unsigned peers = __match_any_sync(participants, static_cast<unsigned long long>(word));
    const bool leads = __ffs(static_cast<int>(peers)) - 1 == lane;
    if (leads) atomic_add(counts + word, __popc(peers));
  }
}

struct Groups {
  const double* confidence;
  const double* probit_lower;
  const double* probit_upper;
  const int64_t* counts;  // (size, 2): wrong, right
  int64_t size;
};

struct RadiusWords {
  BlockWords<SharedSum> table, clean, brier;
};

__device__ void add_split(const BlockWords<SharedSum>& words, int64_t first_word, int64_t q,
                          int64_t times) {
  words.add(first_word, (q >> kLowBits) * times);
  words.add(first_word + 1, (q & kLowMask) * times);
}

// Adds what group g gives at one radius; the Brier sums stay with the thread.
__device__ void certify_group(const Groups& groups, int64_t g, double shift, const Bins& bins,
                              const RadiusWords& out, SplitSum& certified, SplitSum& clean) {
  const int64_t counts[2] = {groups.counts[2 * g], groups.counts[2 * g + 1]};
  const double probit_lower = groups.probit_lower[g];
  if (counts[0] + counts[1] == 0 || !prediction_is_certified(probit_lower, 0.0) ||
      !prediction_is_certified(probit_lower, shift)) {
    return;
  }
  const Interval z = shift_interval(probit_lower, groups.probit_upper[g], shift, kDeviceCdfTable);
  const double confidence = groups.confidence[g];
  const int a = bin_of(z.lower, bins);
  const int b = bin_of(z.upper, bins);
  const int64_t bin = static_cast<int64_t>(bin_of(confidence, bins)) * kCleanWords;
  for (int c = 0; c < 2; ++c) {
    const int64_t times = counts[c];
    if (times == 0) continue;
    const int64_t cell = cell_index(c, a, b, bins.count);
    out.table.add(cell + kCount, times);
    add_split(out.table, cell + kLowerHigh, fixed_floor(z.lower), times);
    add_split(out.table, cell + kUpperHigh, fixed_ceil(z.upper), times);
    out.clean.add(bin + kSamples, times);
    if (c == 1) out.clean.add(bin + kRight, times);
    add_split(out.clean, bin + kConfidenceHigh, fixed_floor(confidence), times);
    certified.add(worst_square(c, z.lower, z.upper), times);
    clean.add(worst_square(c, confidence, confidence), times);
  }
}

__device__ int64_t warp_sum(int64_t x) {
  for (int step = kWarpThreads / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// A tile is a range of groups at one radius; its words are gathered in shared memory where a radius has few enough.
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    certify_kernel(Groups groups, const double* __restrict__ shifts, int64_t radii, Bins bins,
                   bool gathered, int64_t* tables, int64_t* clean, int64_t* brier) {
  const int64_t table_size = table_words(bins.count);
  const int64_t clean_size = static_cast<int64_t>(bins.count) * kCleanWords;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t tiles_per_radius = ceil_div(groups.size, kGroupsPerTile);
  for (int64_t tile = blockIdx.x; tile < radii * tiles_per_radius; tile += gridDim.x) {
    const int64_t r = tile / tiles_per_radius;
    const int64_t first = (tile - r * tiles_per_radius) * kGroupsPerTile;
    const int64_t last =
        first + kGroupsPerTile < groups.size ? first + kGroupsPerTile : groups.size;
    const double shift = shifts[r];
    SharedSum* const shared = gathered ? shared_words : nullptr;
    const RadiusWords out = {
        {shared, tables + r * table_size, table_size},
        {gathered ? shared + table_size : nullptr, clean + r * clean_size, clean_size},
        {gathered ? shared + table_size + clean_size : nullptr, brier + r * kBrierWords,
         kBrierWords}};
    out.table.clear();
    out.clean.clear();
    out.brier.clear();
    __syncthreads();

    SplitSum certified_square{0, 0};
    SplitSum clean_square{0, 0};
    for (int64_t g = first + threadIdx.x; g < last; g += kBlockThreads) {
      certify_group(groups, g, shift, bins, out, certified_square, clean_square);
    }
    const int64_t sums[kBrierWords] = {warp_sum(certified_square.high),
                                       warp_sum(certified_square.low), warp_sum(clean_square.high),
                                       warp_sum(clean_square.low)};
    if (lane == 0) {
      for (int w = 0; w < kBrierWords; ++w) out.brier.add(w, sums[w]);
    }

    __syncthreads();
    out.table.flush();
    out.clean.flush();
    out.brier.flush();
    __syncthreads();
  }
}

}  // namespace

cudaError_t launch_certify(const int64_t* group, const uint8_t* correct, int64_t samples,
                           const double* confidence, const double* probit_lower,
                           const double* probit_upper, int64_t groups, const double* shifts,
                           int64_t radii, const Bins& bins, int64_t* group_counts, int64_t* tables,
                           int64_t* clean, int64_t* brier, cudaStream_t stream) {
  if (samples <= 0 || groups <= 0 || radii <= 0) return cudaSuccess;
  const cudaError_t error = launch(count_groups_kernel, ceil_div(samples, kBlockThreads), 0, stream,
                                   group, correct, samples, group_counts);
  if (error != cudaSuccess) return error;
  const int64_t words =
      table_words(bins.count) + static_cast<int64_t>(bins.count) * kCleanWords + kBrierWords;
  const size_t bytes = static_cast<size_t>(words) * sizeof(SharedSum);
  const bool gathered = bytes <= kMaxSharedBytes;
  return launch(certify_kernel, radii * ceil_div(groups, kGroupsPerTile), gathered ? bytes : 0,
                stream, Groups{confidence, probit_lower, probit_upper, group_counts, groups},
                shifts, radii, bins, gathered, tables, clean, brier);
}

}  // namespace certcal
