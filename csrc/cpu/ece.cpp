// SPDX-License-Identifier: MIT
#include "ece.hpp"

#include <mutex>
#include <vector>

#include "../core/certify.hpp"
#include "../core/ece_solve.hpp"
#include "clones.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kGrainRows = 1 << 14;
// What one pass prepares for the next fits in the first-level cache.
constexpr int kChunkRows = 1024;

struct Rows {
  const uint8_t* correct;
  const double* lower;
  const double* upper;

  Rows from(int64_t n) const { return {correct + n, lower + n, upper + n}; }
};

// A chunk of rows in the form that the sums take: computed a vector at a time, added one by one.
struct Prepared {
  int32_t cell[kChunkRows];
  uint64_t lower[kChunkRows];
  uint64_t upper[kChunkRows];
};

// The two words of a sum side by side, the upper one from bit 32 on. Both must be summed by themselves: the words of a
// table are then the same for every split of its rows, which the words of a partial sum are not.
constexpr int kPackedBits = 32;
constexpr uint64_t kPackedMask = (uint64_t{1} << kPackedBits) - 1;

CERTCAL_HD uint64_t pack_words(int64_t q) {
  const auto bits = static_cast<uint64_t>(q);
  return (bits >> kLowBits << kPackedBits) | (bits & static_cast<uint64_t>(kLowMask));
}

CERTCAL_HD bool is_valid(double lower, double upper) {
  return (lower >= 0.0) & (lower <= upper) & (upper <= 1.0);
}

CERTCAL_CLONES bool all_valid(const Rows& rows, int count) {
  int bad = 0;
  for (int n = 0; n < count; ++n) {
    bad |= !is_valid(rows.lower[n], rows.upper[n]);
  }
  return bad == 0;
}

int32_t cell_of(const Rows& rows, int n, const Bins& bins) {
  return (static_cast<int32_t>(rows.correct[n] != 0) * bins.count + bin_of(rows.lower[n], bins)) *
             bins.count +
         bin_of(rows.upper[n], bins);
}

// Marks a row whose cell has to be found by comparing with the edges themselves.
constexpr int32_t kNearEdge = -1;

// For bins of equal width, trunc(x * count) is the bin, except within kEdgeMargin of an edge: no edge is further than
// that from m / count (edges_are_uniform), and x * count may be rounded. The ends 0 and 1 belong to the first and the last
// bin whatever side is closed, and many bounds lie there.
constexpr double kEdgeMargin = 1e-8;

CERTCAL_HD int is_sure(double scaled, double floor, double count) {
  const double above = scaled - floor;
  return ((above > kEdgeMargin) & (above < 1.0 - kEdgeMargin)) | (scaled == 0.0) |
         (scaled == count);
}

CERTCAL_CLONES void prepare_table_rows(const Rows& rows, int count, const Bins& bins,
                                       Prepared& out) {
  for (int n = 0; n < count; ++n) {
    out.lower[n] = pack_words(fixed_floor(rows.lower[n]));
    out.upper[n] = pack_words(fixed_ceil(rows.upper[n]));
  }
  const int m = bins.count;
  const double width = m;
  const int uniform = bins.uniform;
  for (int n = 0; n < count; ++n) {
    const double lower = rows.lower[n] * width;
    const double upper = rows.upper[n] * width;
    const int a = static_cast<int>(lower);
    const int b = static_cast<int>(upper);
    const int sure = uniform & is_sure(lower, a, width) & is_sure(upper, b, width);
    const int32_t right = rows.correct[n] != 0;
    const int32_t cell = (right * m + (a - (a == m))) * m + (b - (b == m));
    out.cell[n] = sure != 0 ? cell : kNearEdge;
  }
}

CERTCAL_CLONES SplitSum sum_of_worst_squares(const Rows& rows, int count) {
  SplitSum sum{0, 0};
  for (int n = 0; n < count; ++n) {
    sum.add(worst_square(rows.correct[n] != 0, rows.lower[n], rows.upper[n]));
  }
  return sum;
}

// The sums of one thread: packed words of up to 2^26 each stay apart, and below 2^64, for 2^5 rows, and go to the words
// of the table when a cell has as many.
class LocalTable {
 public:
  explicit LocalTable(int bins)
      : cells_(static_cast<size_t>(2 * bins * bins)), words_(cells_.size() * kCellWords, 0) {}

  void add(int32_t index, uint64_t lower, uint64_t upper) {
    Cell& cell = cells_[static_cast<size_t>(index)];
    cell.count += 1;
    cell.lower += lower;
    cell.upper += upper;
    if (cell.count == kMostRows) flush(static_cast<size_t>(index));
  }

  std::vector<int64_t>& finish() {
    for (size_t index = 0; index < cells_.size(); ++index) flush(index);
    return words_;
  }

 private:
  static constexpr int64_t kMostRows = int64_t{1} << 5;
  struct alignas(32) Cell {
    int64_t count = 0;
    uint64_t lower = 0, upper = 0;
  };

  void flush(size_t index) {
    Cell& cell = cells_[index];
    int64_t* words = words_.data() + index * kCellWords;
    words[kCount] += cell.count;
    words[kLowerHigh] += static_cast<int64_t>(cell.lower >> kPackedBits);
    words[kLowerLow] += static_cast<int64_t>(cell.lower & kPackedMask);
    words[kUpperHigh] += static_cast<int64_t>(cell.upper >> kPackedBits);
    words[kUpperLow] += static_cast<int64_t>(cell.upper & kPackedMask);
    cell = Cell();
  }

  std::vector<Cell> cells_;
  std::vector<int64_t> words_;
};

int64_t first_invalid(const Rows& rows) {
  int64_t n = 0;
  while (is_valid(rows.lower[n], rows.upper[n])) ++n;
  return n;
}

// Collects what the threads found: the first invalid row, or the sum of their words.
class Gathered {
 public:
  explicit Gathered(int64_t num_words) : sum_(static_cast<size_t>(num_words), 0) {}

  void add(int64_t invalid, const std::vector<int64_t>& words) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (invalid >= 0 && (invalid_ < 0 || invalid < invalid_)) invalid_ = invalid;
    for (size_t w = 0; w < words.size(); ++w) sum_[w] += words[w];
  }

  // Adds the sums to `out` unless a row was invalid; returns that row, or -1.
  int64_t finish(int64_t* out) const {
    for (size_t w = 0; invalid_ < 0 && w < sum_.size(); ++w) out[w] += sum_[w];
    return invalid_;
  }

 private:
  std::mutex mutex_;
  int64_t invalid_ = -1;
  std::vector<int64_t> sum_;
};

// Calls chunk(rows, count) over [begin, end) up to the first invalid row, which is returned, or -1.
template <class Chunk>
int64_t for_valid_chunks(const Rows& rows, int64_t begin, int64_t end, const Chunk& chunk) {
  for (int64_t first = begin; first < end; first += kChunkRows) {
    const int count = static_cast<int>(std::min<int64_t>(kChunkRows, end - first));
    const Rows part = rows.from(first);
    if (!all_valid(part, count)) return first + first_invalid(part);
    chunk(part, count);
  }
  return -1;
}

}  // namespace

int64_t ece_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                       int64_t rows, const Bins& bins, int64_t* table, int threads) {
  Gathered gathered(table_words(bins.count));
  parallel_for(rows, kGrainRows, threads, [&](int64_t begin, int64_t end) {
    LocalTable local(bins.count);
    Prepared prepared;
    const int64_t invalid =
        for_valid_chunks({correct, lower, upper}, begin, end, [&](const Rows& part, int count) {
          prepare_table_rows(part, count, bins, prepared);
          for (int n = 0; n < count; ++n) {
            const int32_t cell =
                prepared.cell[n] == kNearEdge ? cell_of(part, n, bins) : prepared.cell[n];
            local.add(cell, prepared.lower[n], prepared.upper[n]);
          }
        });
    gathered.add(invalid, local.finish());
  });
  return gathered.finish(table);
}

int64_t brier_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                         int64_t rows, int64_t* sums, int threads) {
  Gathered gathered(2);
  parallel_for(rows, kGrainRows, threads, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> words(2, 0);
    const int64_t invalid =
        for_valid_chunks({correct, lower, upper}, begin, end, [&](const Rows& part, int count) {
          const SplitSum sum = sum_of_worst_squares(part, count);
          words[0] += sum.high;
          words[1] += sum.low;
        });
    gathered.add(invalid, words);
  });
  return gathered.finish(sums);
}

void ece_worst_confidence_cpu(const uint8_t* correct, const double* lower, const double* upper,
                              int64_t rows, const Bins& bins, const int8_t* signs, double* out,
                              int threads) {
  const size_t m = static_cast<size_t>(bins.count);
  std::vector<int> first_plus(m), last_minus(m);
  int next = bins.count;
  for (int k = bins.count - 1; k >= 0; --k) {
    if (signs[k] > 0) next = k;
    first_plus[static_cast<size_t>(k)] = next;
  }
  int previous = -1;
  for (int k = 0; k < bins.count; ++k) {
    if (signs[k] < 0) previous = k;
    last_minus[static_cast<size_t>(k)] = previous;
  }
  parallel_for(rows, kGrainRows, threads, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      out[n] = worst_confidence(correct[n] != 0, lower[n], upper[n], bins, first_plus.data(),
                                last_minus.data());
    }
  });
}

}  // namespace certcal
