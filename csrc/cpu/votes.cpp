// SPDX-License-Identifier: MIT
#include "votes.hpp"

#include <vector>

#include "../core/fixed_point.hpp"
#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kGrainLogits = 65536;

int64_t grain_rows(int64_t classes) { return std::max<int64_t>(1, kGrainLogits / classes); }

template <class Real>
FaultWord fault_of(const Real* row, int64_t classes) {
  for (int64_t k = 0; k < classes; ++k) {
    if (row[k] != row[k]) return kNanRows;
  }
  return kInfiniteRows;
}

// Calls vote(b, row index, row, top) for each finite row of [first, last) and counts the others in `faults`.
template <class Real, class Vote>
void scan_rows(const Real* logits, int64_t draws, int64_t classes, int64_t first, int64_t last,
               int64_t* faults, const Vote& vote) {
  int64_t local_faults[kFaultWords] = {0, 0};
  for (int64_t line = first; line < last; ++line) {
    const Real* row = logits + line * classes;
    TopTwo<Real> top;
    bool finite = true;
    for (int64_t k = 0; k < classes; ++k) {
      finite &= is_finite(row[k]);
      top.see(row[k], k);
    }
    if (finite) {
      vote(line / draws, line, row, top);
    } else {
      ++local_faults[fault_of(row, classes)];
    }
  }
  for (int f = 0; f < kFaultWords; ++f) atomic_add(faults[f], local_faults[f]);
}

// Words that belong to one sample, kept by one thread while it works on that sample's rows and then added to the shared
// ones: two threads may share the sample that their pieces meet in.
class SampleWords {
 public:
  SampleWords(int64_t* shared, int64_t width)
      : shared_(shared), width_(width), local_(static_cast<size_t>(width), 0) {}
  ~SampleWords() { flush(); }
  SampleWords(const SampleWords&) = delete;
  SampleWords& operator=(const SampleWords&) = delete;

  int64_t* of(int64_t sample) {
    if (sample != sample_) {
      flush();
      sample_ = sample;
    }
    return local_.data();
  }

 private:
  void flush() {
    if (sample_ < 0) return;
    for (int64_t k = 0; k < width_; ++k) {
      atomic_add(shared_[sample_ * width_ + k], local_[static_cast<size_t>(k)]);
      local_[static_cast<size_t>(k)] = 0;
    }
  }

  int64_t* shared_;
  int64_t width_;
  std::vector<int64_t> local_;
  int64_t sample_ = -1;
};

template <class Real>
uint64_t units_of(Real logit, Real best) {
  return exp_units(static_cast<float>(logit - best));
}

}  // namespace

template <class Real>
void count_votes_cpu(const Real* logits, int64_t batch, int64_t draws, int64_t classes,
                     double margin, int64_t* counts, uint8_t* near_ties, int64_t* faults,
                     int threads) {
  parallel_for(batch * draws, grain_rows(classes), threads, [&](int64_t first, int64_t last) {
    SampleWords sample_counts(counts, classes);
    const auto vote = [&](int64_t b, int64_t line, const Real*, const TopTwo<Real>& top) {
      if (near_ties != nullptr && top.is_near_tie(static_cast<Real>(margin))) {
        near_ties[line] = 1;
      } else {
        ++sample_counts.of(b)[top.best_class];
      }
    };
    scan_rows(logits, draws, classes, first, last, faults, vote);
  });
}

template <class Real>
void score_histogram_cpu(const Real* logits, const int64_t* classes, int64_t batch, int64_t draws,
                         int64_t num_classes, int64_t bins, int64_t* histogram, int64_t* score_sums,
                         int64_t* faults, int threads) {
  parallel_for(batch * draws, grain_rows(num_classes), threads, [&](int64_t first, int64_t last) {
    SampleWords sample_histogram(histogram, bins);
    SampleWords sample_sums(score_sums, 2);
    const auto vote = [&](int64_t b, int64_t, const Real* row, const TopTwo<Real>& top) {
      uint64_t sum = 0;
      for (int64_t k = 0; k < num_classes; ++k) sum += units_of(row[k], top.best);
      const int64_t chosen = classes != nullptr ? classes[b] : top.best_class;
      const double score = score_of(units_of(row[chosen], top.best), sum);
      ++sample_histogram.of(b)[score_bin(score, static_cast<int>(bins))];
      const int64_t q = fixed_floor(score);
      int64_t* words = sample_sums.of(b);
      words[0] += q >> kLowBits;
      words[1] += q & kLowMask;
    };
    scan_rows(logits, draws, num_classes, first, last, faults, vote);
  });
}

template void count_votes_cpu(const float*, int64_t, int64_t, int64_t, double, int64_t*, uint8_t*,
                              int64_t*, int);
template void count_votes_cpu(const double*, int64_t, int64_t, int64_t, double, int64_t*, uint8_t*,
                              int64_t*, int);
template void score_histogram_cpu(const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                                  int64_t*, int64_t*, int64_t*, int);
template void score_histogram_cpu(const double*, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                                  int64_t*, int64_t*, int64_t*, int);

}  // namespace certcal
