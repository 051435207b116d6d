// SPDX-License-Identifier: MIT
#include "votes.hpp"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../core/fixed_point.hpp"
#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "parallel.hpp"
#include "votes_kernel.hpp"

namespace certcal {
namespace {

constexpr int64_t kGrainLogits = 65536;

int64_t grain_rows(int64_t classes) { return std::max<int64_t>(1, kGrainLogits / classes); }

template <class Real>
TopRows<Real> top_function([[maybe_unused]] SimdPath path, [[maybe_unused]] int64_t classes) {
#ifdef CERTCAL_X86
  if (classes <= kMostVectorClasses) {
    return for_path<TopRows<Real>>(path, top_rows_scalar<Real>, top_rows_avx2, top_rows_avx512);
  }
#endif
  return top_rows_scalar<Real>;
}

template <class Real>
ScoreRows<Real> score_function([[maybe_unused]] SimdPath path, [[maybe_unused]] int64_t classes) {
#ifdef CERTCAL_X86
  if (classes <= kMostVectorClasses) {
    return for_path<ScoreRows<Real>>(path, score_rows_scalar<Real>, score_rows_avx2,
                                     score_rows_avx512);
  }
#endif
  return score_rows_scalar<Real>;
}

// The rows [first, last) that one thread works on, in blocks, and the samples that they belong to.
struct Piece {
  int64_t draws, first, last;

  // Whether no other thread has rows of the sample.
  bool owns(int64_t sample) const {
    return sample * draws >= first && (sample + 1) * draws <= last;
  }

  // Calls body(line, rows) for one block after the other.
  template <class Body>
  void for_each_block(const Body& body) const {
    for (int64_t line = first; line < last; line += kBlockRows) {
      body(line, std::min(kBlockRows, last - line));
    }
  }

  // Calls body(b, begin, end) with the rows of the block, counted from its first one, that sample b has.
  template <class Body>
  void for_each_sample(int64_t line, int64_t rows, const Body& body) const {
    int64_t b = line / draws;
    int64_t left = (b + 1) * draws - line;
    for (int64_t begin = 0; begin < rows; ++b, left = draws) {
      const int64_t end = std::min(rows, begin + left);
      body(b, begin, end);
      begin = end;
    }
  }
};

// The margin of each row of a block, from that of its sample.
template <class Real>
class MarginRows {
 public:
  // margins: (batch,), or null where near ties are not looked for.
  explicit MarginRows(const double* margins) : margins_(margins) {}

  // For the block that begins at `line`; null where near ties are not looked for.
  const Real* of(const Piece& piece, int64_t line, int64_t rows) {
    if (margins_ == nullptr) return nullptr;
    piece.for_each_sample(line, rows, [&](int64_t b, int64_t from, int64_t to) {
      std::fill(rows_ + from, rows_ + to, static_cast<Real>(margins_[b]));
    });
    return rows_;
  }

 private:
  const double* margins_;
  Real rows_[kBlockRows] = {};
};

// Words that belong to one sample. A thread that has many rows of it counts in words of its own and adds them up when the
// sample changes: in kCopies that take turns, since the next count mostly goes where the last one did, and would wait
// for it. A thread that has few rows, but all that there are, counts in the shared words directly.
class SampleWords {
 public:
  static constexpr int64_t kCopies = 4;

  SampleWords(int64_t* shared, int64_t width, const Piece& piece)
      : shared_(shared), width_(width), piece_(piece) {
    many_rows_ = piece.draws / 16 >= width;
  }
  ~SampleWords() { flush(); }
  SampleWords(const SampleWords&) = delete;
  SampleWords& operator=(const SampleWords&) = delete;

  // The words of a sample; copy c of them begins at c * stride().
  int64_t* of(int64_t sample) {
    if (sample != sample_) turn_to(sample);
    return words_;
  }
  int64_t stride() const { return stride_; }

 private:
  void turn_to(int64_t sample) {
    flush();
    sample_ = sample;
    stride_ = many_rows_ ? width_ : 0;
    if (!many_rows_ && piece_.owns(sample)) {
      words_ = shared_ + sample * width_;
      return;
    }
    local_.assign(static_cast<size_t>(many_rows_ ? kCopies * width_ : width_), 0);
    words_ = local_.data();
  }

  void flush() {
    if (sample_ < 0 || words_ != local_.data()) return;
    int64_t* shared = shared_ + sample_ * width_;
    for (size_t k = 0; k < local_.size(); ++k) {
      atomic_add(shared[k % static_cast<size_t>(width_)], local_[k]);
    }
  }

  int64_t* shared_;
  int64_t width_;
  Piece piece_;
  bool many_rows_ = false;
  int64_t stride_ = 0;
  int64_t sample_ = -1;
  int64_t* words_ = nullptr;
  std::vector<int64_t> local_;
};

template <class Real>
FaultWord fault_of(const Real* row, int64_t classes) {
  for (int64_t k = 0; k < classes; ++k) {
    if (row[k] != row[k]) return kNanRows;
  }
  return kInfiniteRows;
}

// The rows of a block as the kernels read them: where they lie, or widened into a buffer of this thread.
template <class Stored>
class WideRows {
 public:
  using Real = WideOf<Stored>;
  static constexpr bool kWidens = !std::is_same_v<Stored, Real>;

  WideRows(const Stored* logits, int64_t rows, int64_t classes)
      : logits_(logits), end_(logits + rows * classes), classes_(classes) {
    if (kWidens) buffer_.resize(static_cast<size_t>(kBlockRows * classes));
  }

  const Real* at(int64_t line, int64_t rows) {
    const Stored* first = logits_ + line * classes_;
    if constexpr (kWidens) {
      for (int64_t k = 0; k < rows * classes_; ++k) {
        buffer_[static_cast<size_t>(k)] = widened(first[k]);
      }
      return buffer_.data();
    } else {
      return first;
    }
  }

  // Up to where may be read.
  const Real* end() const {
    if constexpr (kWidens) {
      return buffer_.data() + buffer_.size();
    } else {
      return end_;
    }
  }

 private:
  const Stored* logits_;
  const Stored* end_;
  int64_t classes_;
  std::vector<Real> buffer_;
};

uint64_t first_bits(int64_t rows) { return ~uint64_t{0} >> (kBlockRows - rows); }

bool has_bit(uint64_t bits, int64_t k) { return (bits >> k & 1) != 0; }

// Sorts the faulty rows of a block by their fault.
template <class Real>
void count_faults(const Real* block, int64_t classes, uint64_t faulty, int64_t* faults) {
  for (; faulty != 0; faulty &= faulty - 1) {
    const int64_t r = __builtin_ctzll(faulty);
    atomic_add(faults[fault_of(block + r * classes, classes)], 1);
  }
}

void mark(uint64_t bits, uint8_t* rows) {
  for (; bits != 0; bits &= bits - 1) rows[__builtin_ctzll(bits)] = 1;
}

// Counts the tops of the rows [from, to) of a block but for those in `without`.
void count_tops(const RowBlock& block, uint64_t without, int64_t from, int64_t to, int64_t* words,
                int64_t stride) {
  int64_t r = from;
  if (without == 0) {
    for (; r + SampleWords::kCopies <= to; r += SampleWords::kCopies) {
      for (int64_t c = 0; c < SampleWords::kCopies; ++c) ++words[c * stride + block.top[r + c]];
    }
  }
  for (; r < to; ++r) {
    if (!has_bit(without, r)) ++words[block.top[r]];
  }
}

}  // namespace

template <class Stored>
void count_votes_cpu(const Stored* logits, int64_t batch, int64_t draws, int64_t classes,
                     const double* margins, int64_t* counts, uint8_t* near_ties, int64_t* faults,
                     int threads, SimdPath path) {
  using Real = WideOf<Stored>;
  const TopRows<Real> top_rows = top_function<Real>(path, classes);
  parallel_for(batch * draws, grain_rows(classes), threads, [&](int64_t first, int64_t last) {
    const Piece piece{draws, first, last};
    SampleWords sample_counts(counts, classes, piece);
    WideRows<Stored> wide(logits, batch * draws, classes);
    MarginRows<Real> margin_rows(near_ties != nullptr ? margins : nullptr);
    RowBlock block;
    piece.for_each_block([&](int64_t line, int64_t rows) {
      const Real* row = wide.at(line, rows);
      top_rows(row, rows, classes, wide.end(), margin_rows.of(piece, line, rows), block);
      const uint64_t faulty = block.faulty & first_bits(rows);
      const uint64_t near = block.near_ties & first_bits(rows) & ~faulty;
      count_faults(row, classes, faulty, faults);
      if (near != 0) mark(near, near_ties + line);
      piece.for_each_sample(line, rows, [&](int64_t b, int64_t from, int64_t to) {
        int64_t* words = sample_counts.of(b);
        count_tops(block, faulty | near, from, to, words, sample_counts.stride());
      });
    });
  });
}

template <class Stored>
void count_votes_and_scores_cpu(const Stored* logits, const int64_t* classes, int64_t batch,
                                int64_t draws, int64_t num_classes, int64_t bins,
                                const double* margins, int64_t* counts, uint8_t* near_ties,
                                int64_t* histogram, int64_t* score_sums, int64_t* faults,
                                int threads, SimdPath path) {
  using Real = WideOf<Stored>;
  const ScoreRows<Real> score_rows = score_function<Real>(path, num_classes);
  parallel_for(batch * draws, grain_rows(num_classes), threads, [&](int64_t first, int64_t last) {
    const Piece piece{draws, first, last};
    SampleWords sample_counts(counts, num_classes, piece);
    SampleWords sample_histogram(histogram, bins, piece);
    SampleWords sample_sums(score_sums, 2, piece);
    WideRows<Stored> wide(logits, batch * draws, num_classes);
    MarginRows<Real> margin_rows(near_ties != nullptr ? margins : nullptr);
    RowBlock block;
    int64_t chosen[kBlockRows];
    piece.for_each_block([&](int64_t line, int64_t rows) {
      const Real* row = wide.at(line, rows);
      if (classes != nullptr) {
        piece.for_each_sample(line, rows, [&](int64_t b, int64_t from, int64_t to) {
          std::fill(chosen + from, chosen + to, classes[b]);
        });
      }
      score_rows(row, rows, num_classes, wide.end(), classes != nullptr ? chosen : nullptr,
                 margin_rows.of(piece, line, rows), block);
      const uint64_t faulty = block.faulty & first_bits(rows);
      const uint64_t near = block.near_ties & first_bits(rows) & ~faulty;
      count_faults(row, num_classes, faulty, faults);
      if (near != 0) mark(near, near_ties + line);
      piece.for_each_sample(line, rows, [&](int64_t b, int64_t from, int64_t to) {
        if (counts != nullptr) {
          int64_t* votes = sample_counts.of(b);
          count_tops(block, faulty | near, from, to, votes, sample_counts.stride());
        }
        int64_t* words = sample_histogram.of(b);
        const int64_t stride = sample_histogram.stride();
        SplitSum sum{0, 0};
        for (int64_t r = from; r < to; ++r) {
          if (has_bit(faulty, r)) continue;
          const int bin = score_bin(block.score[r], static_cast<int>(bins));
          ++words[r % SampleWords::kCopies * stride + bin];
          sum.add(fixed_floor(block.score[r]));
        }
        int64_t* sums = sample_sums.of(b);
        sums[0] += sum.high;
        sums[1] += sum.low;
      });
    });
  });
}

template <class Stored>
void score_histogram_cpu(const Stored* logits, const int64_t* classes, int64_t batch, int64_t draws,
                         int64_t num_classes, int64_t bins, int64_t* histogram, int64_t* score_sums,
                         int64_t* faults, int threads, SimdPath path) {
  count_votes_and_scores_cpu(logits, classes, batch, draws, num_classes, bins, nullptr,
                             static_cast<int64_t*>(nullptr), static_cast<uint8_t*>(nullptr),
                             histogram, score_sums, faults, threads, path);
}

#define CERTCAL_INSTANTIATE(Stored)                                                                \
  template void count_votes_cpu(const Stored*, int64_t, int64_t, int64_t, const double*, int64_t*, \
                                uint8_t*, int64_t*, int, SimdPath);                                \
  template void score_histogram_cpu(const Stored*, const int64_t*, int64_t, int64_t, int64_t,      \
                                    int64_t, int64_t*, int64_t*, int64_t*, int, SimdPath);         \
  template void count_votes_and_scores_cpu(const Stored*, const int64_t*, int64_t, int64_t,        \
                                           int64_t, int64_t, const double*, int64_t*, uint8_t*,    \
                                           int64_t*, int64_t*, int64_t*, int, SimdPath);

CERTCAL_INSTANTIATE(float)
CERTCAL_INSTANTIATE(double)
CERTCAL_INSTANTIATE(Float16)
CERTCAL_INSTANTIATE(BFloat16)
#undef CERTCAL_INSTANTIATE

}  // namespace certcal
