// SPDX-License-Identifier: MIT
#include <limits>
#include <type_traits>

#include "../core/fixed_point.hpp"
#include "../core/half.hpp"
#include "../core/packed.hpp"
#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "launch.hpp"
#include "votes.hpp"

namespace certcal {
namespace {

// A row of logits is read by kLanes neighbouring threads, a tile of consecutive rows by a block. A tile touches few
// samples, so its counts are gathered in shared memory where they fit, and reach global memory as one addition a word.
constexpr int kMostPassesPerTile = 16;
constexpr int kSharedCounts = 4096;
constexpr int kSharedSums = 512;

struct Tile {
  int64_t first_row, last_row;
  int64_t first_sample, samples;

  __device__ Tile(int64_t tile, int64_t tile_rows, int64_t rows, int64_t draws) {
    first_row = tile * tile_rows;
    last_row = first_row + tile_rows < rows ? first_row + tile_rows : rows;
    first_sample = first_row / draws;
    samples = (last_row - 1) / draws - first_sample + 1;
  }

  // Which of its samples a row belongs to. Samples that share a tile have fewer draws than it has rows.
  __device__ unsigned sample_of(int64_t line, int64_t draws) const {
    if (samples == 1) return 0;
    return static_cast<unsigned>(line - first_sample * draws) / static_cast<unsigned>(draws);
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
  TopTwo<Real, int> top;
  bool has_nan = false;
  bool has_non_finite = false;
};

// How a warp takes a row of 4-byte or 2-byte values: one at a time up to the first boundary of 16 bytes, then in vectors, then
// what is left. A lane has at most one value of the head and one of the tail.
template <class Stored>
struct RowVectors {
  static constexpr int kValues = static_cast<int>(sizeof(Vector) / sizeof(Stored));
  static constexpr int kValuesOfAWord = kValuesOfWord<Stored>;
  static constexpr int kLoads = 4;  // in flight together

  const Stored* row;
  const Vector* body;
  int head, vectors, tail, classes;

  __device__ RowVectors(const Stored* first, int size) : row(first), classes(size) {
    const auto skipped =
        static_cast<int>(reinterpret_cast<uintptr_t>(row) % sizeof(Vector) / sizeof(Stored));
    const int until = (kValues - skipped) % kValues;
    head = until < classes ? until : classes;
    vectors = (classes - head) / kValues;
    tail = head + vectors * kValues;
    body = reinterpret_cast<const Vector*>(row + head);
  }

  // Whether this lane has a value before the vectors (its class is the lane), or after them.
  __device__ bool has_head(int lane) const { return lane < head; }
  __device__ bool has_tail(int lane) const { return tail + lane < classes; }

  // Calls see(vector, its number, whether there is one) with so many at a time that their loads overlap.
  template <class See>
  __device__ void each_vector(int lane, const See& see) const {
    for (int first = lane; first - lane < vectors; first += kLoads * kWarpThreads) {
      Vector read[kLoads];
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
        const int v = first + k * kWarpThreads;
        if (v < vectors) {
          read[k] = body[v];
        } else {
          read[k].word[0] = read[k].word[1] = read[k].word[2] = read[k].word[3] =
              least_word(Stored{});
        }
      }
#pragma unroll
      for (int k = 0; k < kLoads; ++k) {
        const int v = first + k * kWarpThreads;
        see(read[k], v, v < vectors);
      }
    }
  }

  // Calls see(value) with each value of this lane.
  template <class See>
  __device__ void each_value(int lane, const See& see) const {
    if (has_head(lane)) see(widened(row[lane]));
    for (int v = lane; v < vectors; v += kWarpThreads) {
      const Vector read = body[v];
#pragma unroll
      for (int k = 0; k < kValues; ++k) {
        see(value_at(read.word[k / kValuesOfAWord], k % kValuesOfAWord, Stored{}));
      }
    }
    if (has_tail(lane)) see(widened(row[tail + lane]));
  }
};

__device__ inline float larger_of(float a, float b) {
  return float_of(larger(bits_of(a), bits_of(b), 0.0f));
}
__device__ inline float smaller_of(float a, float b) {
  return float_of(smaller(bits_of(a), bits_of(b), 0.0f));
}

// Variables, since device code may not call the functions that they come from.
constexpr float kLeast = -std::numeric_limits<float>::infinity();
constexpr int kNowhere = std::numeric_limits<int>::max();

// The largest value that one lane has seen, where it was first met, and with kRunnerUp the next.
template <bool kRunnerUp, class Stored>
struct LaneTop {
  float best = kLeast;
  float second = kLeast;
  int at = 0;
  uint32_t faults = 0;

  __device__ void see(float top, float runner_up, int place) {
    if (kRunnerUp) second = larger_of(larger_of(second, runner_up), smaller_of(best, top));
    at = top > best ? place : at;
    best = larger_of(best, top);
  }

  __device__ void see_value(Stored value, int place) {
    const float x = widened(value);
    if (!is_finite(x)) faults = ~0u;
    see(x, kLeast, place);
  }

  __device__ void see_vector(const Vector& v, int place, bool there) {
    const Stored type{};
    const uint32_t a = larger(v.word[0], v.word[1], type), b = larger(v.word[2], v.word[3], type);
    const uint32_t m = larger(a, b, type);
    if (there) {
#pragma unroll
      for (int k = 0; k < 4; ++k) faults = times_zero(v.word[k], faults, type);
    }
    uint32_t s = 0;
    if (kRunnerUp) {
      s = larger(
          larger(smaller(v.word[0], v.word[1], type), smaller(v.word[2], v.word[3], type), type),
          smaller(a, b, type), type);
    }
    float top = value_at(m, 0, type), runner_up = kRunnerUp ? value_at(s, 0, type) : 0.0f;
    if constexpr (kValuesOfWord<Stored> == 2) {
      const float other = value_at(m, 1, type);
      if (kRunnerUp) {
        runner_up = larger_of(larger_of(runner_up, value_at(s, 1, type)), smaller_of(top, other));
      }
      top = larger_of(top, other);
    }
    see(top, runner_up, place);
  }
};

// What a warp finds in one row; each lane gets the whole answer.
template <bool kRunnerUp, class Stored>
__device__ RowScan<float> scan_row_of_warp(const Stored* __restrict__ first, int classes,
                                           int lane) {
  const RowVectors<Stored> row(first, classes);
  LaneTop<kRunnerUp, Stored> mine;
  // Places: classes of the head and the tail, and between them the first class of a vector.
  if (row.has_head(lane)) mine.see_value(first[lane], lane);
  row.each_vector(lane, [&](const Vector& v, int number, bool there) {
    mine.see_vector(v, row.head + number * RowVectors<Stored>::kValues, there);
  });
  if (row.has_tail(lane)) mine.see_value(first[row.tail + lane], row.tail + lane);

  RowScan<float> scan;
  scan.has_non_finite = __ballot_sync(kFullWarp, seen_infinite(mine.faults, Stored{})) != 0;
  if (scan.has_non_finite) {  // rare: look again
    bool nan = false;
    row.each_value(lane, [&](float x) { nan |= x != x; });
    scan.has_nan = __ballot_sync(kFullWarp, nan) != 0;
    return scan;
  }
  scan.top.best = from_ordered(__reduce_max_sync(kFullWarp, ordered(mine.best)));
  const bool wins = mine.best == scan.top.best;
  int found = kNowhere;
  if (wins) {
    found = mine.at;
    if (found >= row.head && found < row.tail) {
      const Vector v = *reinterpret_cast<const Vector*>(first + found);
      constexpr int kLast = RowVectors<Stored>::kValues - 1;
      int place = kLast;
#pragma unroll
      for (int k = kLast - 1; k >= 0; --k) {
        const float x =
            value_at(v.word[k / kValuesOfWord<Stored>], k % kValuesOfWord<Stored>, Stored{});
        place = x == scan.top.best ? k : place;
      }
      found += place;
    }
  }
  scan.top.best_class =
      static_cast<int>(__reduce_min_sync(kFullWarp, static_cast<unsigned>(found)));
  if (kRunnerUp) {
    const bool alone = __popc(__ballot_sync(kFullWarp, wins)) == 1;
    const float next = wins && alone ? mine.second : mine.best;
    scan.top.second = from_ordered(__reduce_max_sync(kFullWarp, ordered(next)));
  }
  return scan;
}

// The same by kLanes threads, a value at a time. classes == 0 for a thread without a row.
template <int kLanes, class Stored>
__device__ RowScan<WideOf<Stored>> scan_row_of_lanes(const Stored* __restrict__ row, int classes,
                                                     int lane) {
  using Real = WideOf<Stored>;
  RowScan<Real> scan;
#pragma unroll 4
  for (int k = lane; k < classes; k += kLanes) {
    const Real x = widened(row[k]);
    scan.has_nan |= x != x;
    scan.has_non_finite |= !is_finite(x);
    scan.top.see(x, k);
  }
  for (int step = kLanes / 2; step > 0; step /= 2) {
    TopTwo<Real, int> other;
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

template <int kLanes, class Stored>
constexpr bool kInVectors = kLanes == kWarpThreads && sizeof(Stored) <= sizeof(uint32_t);

// Calls vote(row index, row, top, votes, lane) with all threads of the block, pass after pass, and counts the rows with
// NaN or infinity. votes: whether this thread has a row, and the row can vote.
template <int kLanes, bool kRunnerUp, class Stored, class Vote>
__device__ void scan_tile(const Tile& tile, const Stored* __restrict__ logits, int classes,
                          int64_t* faults, const Vote& vote) {
  constexpr int kRowsPerPass = kBlockThreads / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  int nan_rows = 0;
  int infinite_rows = 0;
  // The bound is the same for all threads of the block: shuffles need whole warps.
  int64_t line = tile.first_row + static_cast<int>(threadIdx.x) / kLanes;
  const Stored* row = logits + line * classes;
  for (int64_t first = tile.first_row; first < tile.last_row; first += kRowsPerPass) {
    const bool active = line < tile.last_row;
    RowScan<WideOf<Stored>> scan;
    if constexpr (kInVectors<kLanes, Stored>) {
      if (active) scan = scan_row_of_warp<kRunnerUp>(row, classes, lane);
    } else {
      scan = scan_row_of_lanes<kLanes>(row, active ? classes : 0, lane);
    }
    const bool faulty = active && scan.has_non_finite;
    const bool votes = active && !scan.has_non_finite;
    nan_rows += faulty && scan.has_nan ? 1 : 0;
    infinite_rows += faulty && !scan.has_nan ? 1 : 0;
    vote(line, row, scan.top, votes, lane);
    line += kRowsPerPass;
    row += static_cast<int64_t>(kRowsPerPass) * classes;
  }
  if (lane == 0) {
    atomic_add(faults + kNanRows, nan_rows);
    atomic_add(faults + kInfiniteRows, infinite_rows);
  }
}

template <int kLanes, bool kRunnerUp, class Stored>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    count_votes_kernel(const Stored* __restrict__ logits, int64_t rows, int64_t tile_rows,
                       int64_t draws, int classes, const double* __restrict__ margins,
                       int64_t* counts, uint8_t* near_ties, int64_t* faults) {
  __shared__ SharedCount shared_counts[kSharedCounts];
  const int64_t tiles = ceil_div(rows, tile_rows);
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const Tile tile(t, tile_rows, rows, draws);
    const auto words = words_of(tile, classes, shared_counts, kSharedCounts, counts);
    words.clear();
    __syncthreads();
    const auto vote = [&](int64_t line, const Stored*, const TopTwo<WideOf<Stored>, int>& top,
                          bool votes, int lane) {
      if (!votes || lane != 0) return;
      const unsigned sample = tile.sample_of(line, draws);
      if (kRunnerUp && near_ties != nullptr &&
          top.is_near_tie(static_cast<WideOf<Stored>>(margins[tile.first_sample + sample]))) {
        near_ties[line] = 1;
      } else {
        words.add(static_cast<int64_t>(sample) * classes + top.best_class, 1);
      }
    };
    scan_tile<kLanes, kRunnerUp>(tile, logits, classes, faults, vote);
    __syncthreads();
    words.flush();
    __syncthreads();
  }
}

template <class Real>
__device__ uint64_t units_of(Real logit, Real best) {
  return exp_units(static_cast<float>(logit - best));
}

// The sum of exp(x - best) over a row, in units of 2^-32; each of its kLanes threads gets it. classes == 0 without a row.
template <int kLanes, class Stored>
__device__ uint64_t sum_of_units(const Stored* __restrict__ row, int classes, int lane,
                                 WideOf<Stored> best) {
  uint64_t sum = 0;
  if constexpr (kInVectors<kLanes, Stored>) {
    RowVectors<Stored>(row, classes).each_value(lane, [&](float x) { sum += units_of(x, best); });
  } else {
    for (int k = lane; k < classes; k += kLanes) sum += units_of(widened(row[k]), best);
  }
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  return sum;
}

// Votes and scores in one pass over the tile; without votes where `votes` is null.
template <int kLanes, bool kRunnerUp, class Stored>
__global__ void __launch_bounds__(kBlockThreads, kBlocksPerProcessor)
    score_histogram_kernel(const Stored* __restrict__ logits, const int64_t* __restrict__ classes,
                           int64_t rows, int64_t tile_rows, int64_t draws, int num_classes,
                           int64_t bins, const double* __restrict__ margins, int64_t* votes,
                           uint8_t* near_ties, int64_t* histogram, int64_t* score_sums,
                           int64_t* faults) {
  __shared__ SharedCount shared_counts[kSharedCounts];
  __shared__ SharedSum shared_sums[kSharedSums];
  const int64_t tiles = ceil_div(rows, tile_rows);
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const Tile tile(t, tile_rows, rows, draws);
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
    const auto vote = [&](int64_t line, const Stored* row, const TopTwo<WideOf<Stored>, int>& top,
                          bool may_vote, int lane) {
      const uint64_t sum = sum_of_units<kLanes>(row, may_vote ? num_classes : 0, lane, top.best);
      if (!may_vote || lane != 0) return;
      const int64_t sample = tile.sample_of(line, draws);
      const int64_t b = tile.first_sample + sample;
      if (kRunnerUp && near_ties != nullptr &&
          top.is_near_tie(static_cast<WideOf<Stored>>(margins[b]))) {
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
    scan_tile<kLanes, kRunnerUp>(tile, logits, num_classes, faults, vote);
    __syncthreads();
    counts.flush();
    sums.flush();
    tops.flush();
    __syncthreads();
  }
}

// How a launch is cut: so many threads a row, so many rows a tile.
struct Cut {
  int lanes;
  int64_t tile_rows, tiles;
};

// One thread a row where a row is short and there are rows enough, a warp where it is long. Tiles of a few rows, so that
// each processor has some, or of many, so that few words are flushed.
Cut cut(int64_t rows, int64_t classes) {
  constexpr int64_t kClassesForOneThread = 16, kClassesForEightThreads = 64;
  const int64_t at_once = threads_at_once();
  const int lanes = classes <= kClassesForOneThread && rows >= at_once ? 1
                    : classes <= kClassesForEightThreads               ? 8
                                                                       : kWarpThreads;
  const int64_t pass = kBlockThreads / lanes;
  const int64_t blocks = at_once / kBlockThreads;
  const int64_t passes = blocks > 0 ? rows / (pass * blocks) : kMostPassesPerTile;
  const int64_t tile_rows = pass * (passes < 1                    ? 1
                                    : passes < kMostPassesPerTile ? passes
                                                                  : kMostPassesPerTile);
  return {lanes, tile_rows, ceil_div(rows, tile_rows)};
}

// Calls body with the kernel's width and whether it has to find the next largest logit, as types. Only a warp's scan is
// faster without.
template <class Body>
cudaError_t with_width(int lanes, bool runner_up, const Body& body) {
  if (lanes == 1) return body(std::integral_constant<int, 1>(), std::true_type());
  if (lanes == 8) return body(std::integral_constant<int, 8>(), std::true_type());
  constexpr std::integral_constant<int, kWarpThreads> kWarp;
  return runner_up ? body(kWarp, std::true_type()) : body(kWarp, std::false_type());
}

bool is_empty(int64_t batch, int64_t draws, int64_t classes) {
  return batch <= 0 || draws <= 0 || classes <= 0;
}

}  // namespace

template <class Stored>
cudaError_t launch_count_votes(const Stored* logits, int64_t batch, int64_t draws, int64_t classes,
                               const double* margins, int64_t* counts, uint8_t* near_ties,
                               int64_t* faults, cudaStream_t stream) {
  if (is_empty(batch, draws, classes)) return cudaSuccess;
  if (classes > kMostClasses) return cudaErrorInvalidValue;
  const int64_t rows = batch * draws;
  const Cut shape = cut(rows, classes);
  const int64_t tile_rows = shape.tile_rows, tiles = shape.tiles;
  return with_width(shape.lanes, near_ties != nullptr, [&](auto lanes, auto runner_up) {
    return launch(count_votes_kernel<lanes.value, runner_up.value, Stored>, tiles, stream, logits,
                  rows, tile_rows, draws, static_cast<int>(classes), margins, counts, near_ties,
                  faults);
  });
}

template <class Stored>
cudaError_t launch_count_votes_and_scores(const Stored* logits, const int64_t* classes,
                                          int64_t batch, int64_t draws, int64_t num_classes,
                                          int64_t bins, const double* margins, int64_t* counts,
                                          uint8_t* near_ties, int64_t* histogram,
                                          int64_t* score_sums, int64_t* faults,
                                          cudaStream_t stream) {
  if (is_empty(batch, draws, num_classes) || bins <= 0) return cudaSuccess;
  if (num_classes > kMostClasses) return cudaErrorInvalidValue;
  const int64_t rows = batch * draws;
  const Cut shape = cut(rows, num_classes);
  const int64_t tile_rows = shape.tile_rows, tiles = shape.tiles;
  return with_width(shape.lanes, near_ties != nullptr, [&](auto lanes, auto runner_up) {
    return launch(score_histogram_kernel<lanes.value, runner_up.value, Stored>, tiles, stream,
                  logits, classes, rows, tile_rows, draws, static_cast<int>(num_classes), bins,
                  margins, counts, near_ties, histogram, score_sums, faults);
  });
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
