// SPDX-License-Identifier: MIT
#include "../core/fixed_point.hpp"
#include "../core/half.hpp"
#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "launch.hpp"
#include "votes.hpp"

namespace certcal {
namespace {

// A row of logits is read by kLanes neighbouring threads, a tile of consecutive rows by a block. A tile touches few
// samples, so its counts are gathered in shared memory where they fit, and reach global memory as one addition a word.
constexpr int kPassesPerTile = 16;
constexpr int kSharedCounts = 4096;
constexpr int kSharedSums = 512;

template <int kLanes>
struct Tiling {
  static constexpr int kRowsPerPass = kBlockThreads / kLanes;
  static constexpr int kRowsPerTile = kRowsPerPass * kPassesPerTile;
};

struct Tile {
  int64_t first_row, last_row;
  int64_t first_sample, samples;

  __device__ Tile(int64_t tile, int64_t tile_rows, int64_t rows, int64_t draws) {
    first_row = tile * tile_rows;
    last_row = first_row + tile_rows < rows ? first_row + tile_rows : rows;
    first_sample = first_row / draws;
    samples = (last_row - 1) / draws - first_sample + 1;
  }
};

// Words that belong to the samples of a tile: `width` for each sample in `global`.
template <class SharedWord>
__device__ BlockWords<SharedWord> words_of(const Tile& tile, int64_t width, SharedWord* shared,
                                           int64_t capacity, int64_t* global) {
  const int64_t size = tile.samples * width;
  return {size <= capacity ? shared : nullptr, global + tile.first_sample * width, size};
}

template <class Real>
struct RowScan {
  TopTwo<Real> top;
  bool has_nan = false;
  bool has_non_finite = false;
};

// What kLanes threads find in one row; each of them gets the whole answer. classes == 0 for a thread without a row.
template <int kLanes, class Stored>
__device__ RowScan<WideOf<Stored>> scan_row(const Stored* __restrict__ row, int64_t classes,
                                            int lane) {
  using Real = WideOf<Stored>;
  RowScan<Real> scan;
#pragma unroll 4
  for (int64_t k = lane; k < classes; k += kLanes) {
    const Real x = widened(row[k]);
    scan.has_nan |= x != x;
    scan.has_non_finite |= !is_finite(x);
    scan.top.see(x, k);
  }
  for (int step = kLanes / 2; step > 0; step /= 2) {
    TopTwo<Real> other;
    other.best = __shfl_xor_sync(kFullWarp, scan.top.best, step);
    other.second = __shfl_xor_sync(kFullWarp, scan.top.second, step);
    other.best_class = __shfl_xor_sync(kFullWarp, scan.top.best_class, step);
    scan.top.merge(other);
    const int faults = (scan.has_nan ? 1 : 0) | (scan.has_non_finite ? 2 : 0);
    const int other_faults = __shfl_xor_sync(kFullWarp, faults, step);
    scan.has_nan |= (other_faults & 1) != 0;
    scan.has_non_finite |= (other_faults & 2) != 0;
  }
  return scan;
}

// Calls vote(row index, row, top, votes, lane) with all threads of the block, pass after pass, and counts the rows with
// NaN or infinity. votes: whether this thread has a row, and the row can vote.
template <int kLanes, class Stored, class Vote>
__device__ void scan_tile(const Tile& tile, const Stored* __restrict__ logits, int64_t classes,
                          int64_t* faults, const Vote& vote) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  int64_t nan_rows = 0;
  int64_t infinite_rows = 0;
  // The bound is the same for all threads of the block: shuffles need whole warps.
  for (int64_t first = tile.first_row; first < tile.last_row;
       first += Tiling<kLanes>::kRowsPerPass) {
    const int64_t line = first + static_cast<int>(threadIdx.x) / kLanes;
    const bool active = line < tile.last_row;
    const Stored* row = logits + (active ? line : 0) * classes;
    const RowScan<WideOf<Stored>> scan = scan_row<kLanes>(row, active ? classes : 0, lane);
    const bool faulty = active && scan.has_non_finite;
    const bool votes = active && !scan.has_non_finite;
    nan_rows += faulty && scan.has_nan ? 1 : 0;
    infinite_rows += faulty && !scan.has_nan ? 1 : 0;
    vote(line, row, scan.top, votes, lane);
  }
  if (lane == 0) {
    atomic_add(faults + kNanRows, nan_rows);
    atomic_add(faults + kInfiniteRows, infinite_rows);
  }
}

template <int kLanes, class Stored>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    count_votes_kernel(const Stored* __restrict__ logits, int64_t rows, int64_t draws,
                       int64_t classes, const double* __restrict__ margins, int64_t* counts,
                       uint8_t* near_ties, int64_t* faults) {
  __shared__ SharedCount shared_counts[kSharedCounts];
  const int64_t tiles = ceil_div(rows, Tiling<kLanes>::kRowsPerTile);
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const Tile tile(t, Tiling<kLanes>::kRowsPerTile, rows, draws);
    const auto words = words_of(tile, classes, shared_counts, kSharedCounts, counts);
    words.clear();
    __syncthreads();
    const auto vote = [&](int64_t line, const Stored*, const TopTwo<WideOf<Stored>>& top,
                          bool votes, int lane) {
      if (!votes || lane != 0) return;
      const int64_t b = line / draws;
      if (near_ties != nullptr && top.is_near_tie(static_cast<WideOf<Stored>>(margins[b]))) {
        near_ties[line] = 1;
      } else {
        words.add((b - tile.first_sample) * classes + top.best_class, 1);
      }
    };
    scan_tile<kLanes>(tile, logits, classes, faults, vote);
    __syncthreads();
    words.flush();
    __syncthreads();
  }
}

template <class Real>
__device__ uint64_t units_of(Real logit, Real best) {
  return exp_units(static_cast<float>(logit - best));
}

// Votes and scores in one pass over the tile; without votes where `votes` is null.
template <int kLanes, class Stored>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    score_histogram_kernel(const Stored* __restrict__ logits, const int64_t* __restrict__ classes,
                           int64_t rows, int64_t draws, int64_t num_classes, int64_t bins,
                           const double* __restrict__ margins, int64_t* votes, uint8_t* near_ties,
                           int64_t* histogram, int64_t* score_sums, int64_t* faults) {
  __shared__ SharedCount shared_counts[kSharedCounts];
  __shared__ SharedSum shared_sums[kSharedSums];
  const int64_t tiles = ceil_div(rows, Tiling<kLanes>::kRowsPerTile);
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const Tile tile(t, Tiling<kLanes>::kRowsPerTile, rows, draws);
    const auto counts = words_of(tile, bins, shared_counts, kSharedCounts, histogram);
    const auto sums = words_of(tile, 2, shared_sums, kSharedSums, score_sums);
    // What the histograms leave.
    const int64_t used = tile.samples * bins <= kSharedCounts ? tile.samples * bins : 0;
    const auto tops = words_of(tile, votes != nullptr ? num_classes : 0, shared_counts + used,
                               kSharedCounts - used, votes);
    counts.clear();
    sums.clear();
    tops.clear();
    __syncthreads();
    const auto vote = [&](int64_t line, const Stored* row, const TopTwo<WideOf<Stored>>& top,
                          bool may_vote, int lane) {
      uint64_t sum = 0;
      if (may_vote) {
        for (int64_t k = lane; k < num_classes; k += kLanes)
          sum += units_of(widened(row[k]), top.best);
      }
      for (int step = kLanes / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(kFullWarp, sum, step);
      }
      if (!may_vote || lane != 0) return;
      const int64_t b = line / draws;
      const int64_t sample = b - tile.first_sample;
      if (near_ties != nullptr && top.is_near_tie(static_cast<WideOf<Stored>>(margins[b]))) {
        near_ties[line] = 1;
      } else if (votes != nullptr) {
        tops.add(sample * num_classes + top.best_class, 1);
      }
      const int64_t chosen = classes != nullptr ? classes[b] : top.best_class;
      const double score = score_of(units_of(widened(row[chosen]), top.best), sum);
      counts.add(sample * bins + score_bin(score, static_cast<int>(bins)), 1);
      const int64_t q = fixed_floor(score);
      sums.add(sample * 2, q >> kLowBits);
      sums.add(sample * 2 + 1, q & kLowMask);
    };
    scan_tile<kLanes>(tile, logits, num_classes, faults, vote);
    __syncthreads();
    counts.flush();
    sums.flush();
    tops.flush();
    __syncthreads();
  }
}

// One thread a row where a row is short, a warp where it is long.
constexpr int64_t kClassesForOneThread = 8;
constexpr int64_t kClassesForEightThreads = 64;

int lanes_for(int64_t classes) {
  if (classes <= kClassesForOneThread) return 1;
  return classes <= kClassesForEightThreads ? 8 : kWarpThreads;
}

int64_t tiles_for(int lanes, int64_t rows) {
  return ceil_div(rows, static_cast<int64_t>(kBlockThreads / lanes) * kPassesPerTile);
}

}  // namespace

template <class Stored>
cudaError_t launch_count_votes(const Stored* logits, int64_t batch, int64_t draws, int64_t classes,
                               const double* margins, int64_t* counts, uint8_t* near_ties,
                               int64_t* faults, cudaStream_t stream) {
  if (batch <= 0 || draws <= 0 || classes <= 0) return cudaSuccess;
  const int64_t rows = batch * draws;
  const int lanes = lanes_for(classes);
  const auto kernel = lanes == 1   ? count_votes_kernel<1, Stored>
                      : lanes == 8 ? count_votes_kernel<8, Stored>
                                   : count_votes_kernel<kWarpThreads, Stored>;
  return launch(kernel, tiles_for(lanes, rows), 0, stream, logits, rows, draws, classes, margins,
                counts, near_ties, faults);
}

template <class Stored>
cudaError_t launch_count_votes_and_scores(const Stored* logits, const int64_t* classes,
                                          int64_t batch, int64_t draws, int64_t num_classes,
                                          int64_t bins, const double* margins, int64_t* counts,
                                          uint8_t* near_ties, int64_t* histogram,
                                          int64_t* score_sums, int64_t* faults,
                                          cudaStream_t stream) {
  if (batch <= 0 || draws <= 0 || num_classes <= 0 || bins <= 0) return cudaSuccess;
  const int64_t rows = batch * draws;
  const int lanes = lanes_for(num_classes);
  const auto kernel = lanes == 1   ? score_histogram_kernel<1, Stored>
                      : lanes == 8 ? score_histogram_kernel<8, Stored>
                                   : score_histogram_kernel<kWarpThreads, Stored>;
  return launch(kernel, tiles_for(lanes, rows), 0, stream, logits, classes, rows, draws,
                num_classes, bins, margins, counts, near_ties, histogram, score_sums, faults);
}

template <class Stored>
cudaError_t launch_score_histogram(const Stored* logits, const int64_t* classes, int64_t batch,
                                   int64_t draws, int64_t num_classes, int64_t bins,
                                   int64_t* histogram, int64_t* score_sums, int64_t* faults,
                                   cudaStream_t stream) {
  return launch_count_votes_and_scores<Stored>(logits, classes, batch, draws, num_classes, bins,
                                               nullptr, nullptr, nullptr, histogram, score_sums,
                                               faults, stream);
}

#define CERTCAL_INSTANTIATE(Stored)                                                                \
  template cudaError_t launch_count_votes(const Stored*, int64_t, int64_t, int64_t, const double*, \
                                          int64_t*, uint8_t*, int64_t*, cudaStream_t);             \
  template cudaError_t launch_score_histogram(const Stored*, const int64_t*, int64_t, int64_t,     \
                                              int64_t, int64_t, int64_t*, int64_t*, int64_t*,      \
                                              cudaStream_t);                                       \
  template cudaError_t launch_count_votes_and_scores(                                              \
      const Stored*, const int64_t*, int64_t, int64_t, int64_t, int64_t, const double*, int64_t*,  \
      uint8_t*, int64_t*, int64_t*, int64_t*, cudaStream_t);

CERTCAL_INSTANTIATE(float)
CERTCAL_INSTANTIATE(double)
CERTCAL_INSTANTIATE(Float16)
CERTCAL_INSTANTIATE(BFloat16)
#undef CERTCAL_INSTANTIATE

}  // namespace certcal
