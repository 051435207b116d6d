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

// For bins of any width: [0, 1] in cells of equal width, a power of two of them, and the bin of each cell in which no inner
// edge lies. The others are marked, as is a cell whose left end is an edge.
class BinsOfCells {
 public:
  explicit BinsOfCells(const Bins& bins) : cells_(kLeastCells) {
    if (bins.uniform) return;  // there, no lookup is needed
    while (cells_ < kCellsPerBin * bins.count) cells_ *= 2;
    bin_.assign(static_cast<size_t>(cells_) + 1, kNearEdge);
    for (int m = 0; m < bins.count; ++m) {
      const int begin = m == 0 ? 0 : cell(bins.edges[m]) + 1;
      const int end = m + 1 == bins.count ? cells_ + 1 : cell(bins.edges[m + 1]);
      for (int at = begin; at < end; ++at) bin_[static_cast<size_t>(at)] = m;
    }
  }

  // The product with a power of two is exact.
  int cell(double x) const { return static_cast<int>(x * cells_); }
  int cells() const { return cells_; }
  const int32_t* data() const { return bin_.data(); }

 private:
  static constexpr int kLeastCells = 1 << 12;
  static constexpr int kCellsPerBin = 32;

  int cells_;
  std::vector<int32_t> bin_;
};

CERTCAL_CLONES void pack_ends(const Rows& rows, int count, Prepared& out) {
  for (int n = 0; n < count; ++n) {
    out.lower[n] = pack_words(fixed_floor(rows.lower[n]));
    out.upper[n] = pack_words(fixed_ceil(rows.upper[n]));
  }
}

CERTCAL_CLONES void find_uneven_cells(const Rows& rows, int count, int bins,
                                      const BinsOfCells& lookup, Prepared& out) {
  const double width = lookup.cells();
  const int32_t* bin = lookup.data();
  for (int n = 0; n < count; ++n) {
    const int32_t a = bin[static_cast<int>(rows.lower[n] * width)];
    const int32_t b = bin[static_cast<int>(rows.upper[n] * width)];
    const int32_t right = rows.correct[n] != 0;
    out.cell[n] = (a | b) < 0 ? kNearEdge : (right * bins + a) * bins + b;
  }
}

CERTCAL_CLONES void find_equal_cells(const Rows& rows, int count, const Bins& bins, Prepared& out) {
  const int m = bins.count;
  const double width = m;
  for (int n = 0; n < count; ++n) {
    const double lower = rows.lower[n] * width;
    const double upper = rows.upper[n] * width;
    const int a = static_cast<int>(lower);
    const int b = static_cast<int>(upper);
    const int sure = is_sure(lower, a, width) & is_sure(upper, b, width);
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

// What finds the cells of a chunk of rows, and their ends in fixed point.
class Preparing {
 public:
  explicit Preparing(const Bins& bins) : bins_(bins), lookup_(bins) {}

  void operator()(const Rows& rows, int count, Prepared& out) const {
    pack_ends(rows, count, out);
    if (bins_.uniform) {
      find_equal_cells(rows, count, bins_, out);
    } else {
      find_uneven_cells(rows, count, bins_.count, lookup_, out);
    }
    for (int n = 0; n < count; ++n) {
      if (out.cell[n] == kNearEdge) out.cell[n] = cell_of(rows, n, bins_);
    }
  }

 private:
  const Bins& bins_;
  BinsOfCells lookup_;
};

// The sums of one thread: packed words of up to 2^26 each stay apart, and below 2^64, for 2^5 rows, and go to the words
// of the table when a cell has as many.
class LocalTable {
 public:
  explicit LocalTable(int bins) : cells_(num_cells(bins)), words_(cells_.size() * kCellWords, 0) {}

  // Whether one a thread is worth its memory, which stays below kMostBytes, and the time to clear and add it.
  static bool pays(int bins, int64_t rows) {
    const size_t cells = num_cells(bins);
    return cells * (sizeof(Cell) + kCellWords * sizeof(int64_t)) <= kMostBytes &&
           static_cast<int64_t>(cells) <= rows;
  }

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
  static constexpr size_t kMostBytes = size_t{1} << 24;

  static size_t num_cells(int bins) {
    return size_t{2} * static_cast<size_t>(bins) * static_cast<size_t>(bins);
  }

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

int64_t first_invalid_of(const Rows& rows, int64_t size, int threads) {
  Gathered gathered(0);
  parallel_for(size, kGrainRows, threads, [&](int64_t begin, int64_t end) {
    gathered.add(for_valid_chunks(rows, begin, end, [](const Rows&, int) {}), {});
  });
  return gathered.finish(nullptr);
}

// Adds valid rows to the table itself, which needs no memory beside it.
void add_to_table(const Rows& rows, int64_t size, const Preparing& prepare, int64_t* table,
                  int threads) {
  parallel_for(size, kGrainRows, threads, [&](int64_t begin, int64_t end) {
    const bool alone = begin == 0 && end == size;
    Prepared prepared;
    for_valid_chunks(rows, begin, end, [&](const Rows& part, int count) {
      prepare(part, count, prepared);
      for (int n = 0; n < count; ++n) {
        const uint64_t low = prepared.lower[n], high = prepared.upper[n];
        const int64_t added[kCellWords] = {
            1, static_cast<int64_t>(low >> kPackedBits), static_cast<int64_t>(low & kPackedMask),
            static_cast<int64_t>(high >> kPackedBits), static_cast<int64_t>(high & kPackedMask)};
        int64_t* words = table + int64_t{prepared.cell[n]} * kCellWords;
        for (int w = 0; w < kCellWords; ++w) {
          if (alone) {
            words[w] += added[w];
          } else {
            atomic_add(words[w], added[w]);
          }
        }
      }
    });
  });
}

}  // namespace

int64_t ece_update_cpu(const uint8_t* correct, const double* lower, const double* upper,
                       int64_t rows, const Bins& bins, int64_t* table, int threads) {
  const Rows all{correct, lower, upper};
  const Preparing prepare(bins);
  if (!LocalTable::pays(bins.count, rows)) {
    const int64_t invalid = first_invalid_of(all, rows, threads);
    if (invalid < 0) add_to_table(all, rows, prepare, table, threads);
    return invalid;
  }
  Gathered gathered(table_words(bins.count));
  parallel_for(rows, kGrainRows, threads, [&](int64_t begin, int64_t end) {
    LocalTable local(bins.count);
    Prepared prepared;
    const int64_t invalid = for_valid_chunks(all, begin, end, [&](const Rows& part, int count) {
      prepare(part, count, prepared);
      for (int n = 0; n < count; ++n) {
        local.add(prepared.cell[n], prepared.lower[n], prepared.upper[n]);
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
