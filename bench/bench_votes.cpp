// SPDX-License-Identifier: MIT
// count_votes and score_histogram on float32 logits: 10^5 rows of 10 classes and 10^4 rows of 1000, and more of them on CUDA.
//
// Bytes: each logit is read once, 4 bytes. The softmax reads a row twice, the second time from a cache: counted once.
//
// Operations per logit, comparisons included:
//   votes: one comparison with the largest so far, one with the second largest, one for finiteness          =  3
//   scores: those, and exp in fixed point (core/softmax.hpp): 2 for the argument, 1 + 2 + 4 for its reduction,
//     1 + 8 + 1 + 2 for the polynomial, 5 for the scale, 4 for the product and its rounding, 1 for the sum  = 34
// A logit more than 23 below the largest needs no exp; those are counted too, so the rate of scores is an upper bound.
#include <cmath>

#include "../csrc/core/votes.hpp"
#include "../csrc/cpu/votes.hpp"
#include "bench_common.hpp"

#ifdef CERTCAL_HAS_CUDA
#include "../csrc/cuda/votes.hpp"
#endif

namespace {

using namespace certcal_bench;

constexpr int64_t kBins = 100;
constexpr double kVoteOperations = 3;
constexpr double kScoreOperations = 3 + 31;

struct Votes {
  int64_t draws, classes;
  std::vector<float> logits;
  std::vector<int64_t> counts, histogram;
  std::vector<int64_t> sums = std::vector<int64_t>(2);
  std::vector<int64_t> faults = std::vector<int64_t>(certcal::kFaultWords);

  Votes(int64_t rows, int64_t columns)
      : draws(rows),
        classes(columns),
        counts(static_cast<size_t>(columns)),
        histogram(static_cast<size_t>(kBins)) {
    Random random(2);
    logits.resize(static_cast<size_t>(rows * columns));
    for (float& x : logits) x = static_cast<float>(16 * random.unit() - 8);
  }

  void count(int threads) {
    const float* data = logits.data();
    certcal::count_votes_cpu(data, 1, draws, classes, nullptr, counts.data(), nullptr,
                             faults.data(), threads);
  }
  void score(int threads) {
    const float* data = logits.data();
    certcal::score_histogram_cpu(data, nullptr, 1, draws, classes, kBins, histogram.data(),
                                 sums.data(), faults.data(), threads);
  }

  Work work(double operations) const {
    const auto size = static_cast<double>(logits.size());
    return {4 * size, operations * size};
  }
  std::string shape() const { return std::to_string(draws) + "x" + std::to_string(classes); }
};

// A row at a time, softmax in double. Scores within 2^-18 of an edge of a bin may fall on either side of it.
void check_reference(const Votes& votes) {
  std::vector<int64_t> counts(votes.counts.size());
  std::vector<int64_t> sure(static_cast<size_t>(kBins)), near(static_cast<size_t>(kBins));
  double total = 0;
  for (int64_t d = 0; d < votes.draws; ++d) {
    const float* row = votes.logits.data() + d * votes.classes;
    const float* top = std::max_element(row, row + votes.classes);
    ++counts[static_cast<size_t>(top - row)];
    double sum = 0;
    for (int64_t k = 0; k < votes.classes; ++k) sum += std::exp(static_cast<double>(row[k] - *top));
    const double score = 1 / sum;
    total += score;
    const auto bin_of = [&](double x) {
      return static_cast<size_t>(std::clamp(x * kBins, 0.0, static_cast<double>(kBins - 1)));
    };
    const size_t low = bin_of(score - 0x1p-18), high = bin_of(score + 0x1p-18);
    if (low == high) {
      ++sure[low];
    } else {
      ++near[low];
      ++near[high];
    }
  }
  require(votes.counts == counts, "votes, " + votes.shape());
  for (size_t j = 0; j < sure.size(); ++j) {
    require(votes.histogram[j] >= sure[j] && votes.histogram[j] <= sure[j] + near[j],
            "scores, " + votes.shape() + ", bin " + std::to_string(j));
  }
  const double sum =
      static_cast<double>(votes.sums[0]) * 0x1p-26 + static_cast<double>(votes.sums[1]) * 0x1p-52;
  require(std::abs(sum - total) < 0x1p-18 * static_cast<double>(votes.draws),
          "sum of scores, " + votes.shape());
  require(votes.faults[0] == 0 && votes.faults[1] == 0, "faults, " + votes.shape());
}

#ifdef CERTCAL_HAS_CUDA
// `votes` holds what the CPU counted.
void add_device(const Votes& votes) {
  const DeviceArray<float> logits(votes.logits);
  const DeviceArray<int64_t> counts(votes.counts.size()), histogram(votes.histogram.size());
  const DeviceArray<int64_t> sums(votes.sums.size()), faults(votes.faults.size());
  const int64_t draws = votes.draws, classes = votes.classes;
  const auto count = [=](cudaStream_t stream) {
    const float* data = logits.data();
    return certcal::launch_count_votes(data, 1, draws, classes, nullptr, counts.data(), nullptr,
                                       faults.data(), stream);
  };
  const auto score = [=](cudaStream_t stream) {
    const float* data = logits.data();
    return certcal::launch_score_histogram(data, nullptr, 1, draws, classes, kBins,
                                           histogram.data(), sums.data(), faults.data(), stream);
  };
  check(count(nullptr));
  check(score(nullptr));
  require(counts.on_host() == votes.counts, "votes on CUDA, " + votes.shape());
  require(histogram.on_host() == votes.histogram, "scores on CUDA, " + votes.shape());
  require(sums.on_host() == votes.sums, "sum of scores on CUDA, " + votes.shape());
  add_cuda("votes/" + votes.shape(), votes.work(kVoteOperations), count);
  add_cuda("scores/" + votes.shape(), votes.work(kScoreOperations), score);
}
#endif

void add_all(bool on_cuda) {
  for (const auto& [rows, columns] : {std::pair{100'000, 10}, std::pair{10'000, 1000}}) {
    for (const int threads : thread_counts()) {
      Votes votes(rows, columns);
      votes.count(threads);
      votes.score(threads);
      check_reference(votes);
    }
    const auto votes = std::make_shared<Votes>(rows, columns);
    add_cpu("votes/" + votes->shape(), votes->work(kVoteOperations),
            [=](int threads) { votes->count(threads); });
    add_cpu("scores/" + votes->shape(), votes->work(kScoreOperations),
            [=](int threads) { votes->score(threads); });
  }
#ifdef CERTCAL_HAS_CUDA
  if (!on_cuda) return;
  // The second pair is beyond the device's second-level cache.
  for (const auto& [rows, columns] : {std::pair{100'000, 10}, std::pair{10'000, 1000},
                                      std::pair{20'000'000, 10}, std::pair{400'000, 1000}}) {
    Votes votes(rows, columns);
    votes.count(all_threads());
    votes.score(all_threads());
    add_device(votes);
  }
#else
  (void)on_cuda;
#endif
}

}  // namespace

int main(int argc, char** argv) { return certcal_bench::run(argc, argv, add_all); }
