// SPDX-License-Identifier: MIT
// The passes over (correct, lower, upper) behind certified_ece and certified_brier: 10^6 rows, 15 bins. They run on the CPU only.
//
// Bytes: 17 a row are read once; the worst confidences write 8 more.
//
// Operations per row, comparisons included:
//   table: validity 3, fixed point 2 x 3, bins 2 x 2, cell 4, additions to the five words 5  = 22
//   brier: validity 3, fixed point 3, 1 - l 1, square in integers 12, additions 2            = 21
//   worst confidence: bins 2 x 2, look-up 2, clamp 2                                         =  8
#include <cmath>

#include "../csrc/core/ece_solve.hpp"
#include "../csrc/cpu/ece.hpp"
#include "bench_common.hpp"

namespace {

using namespace certcal_bench;

constexpr int kBins = 15;

struct Ece {
  std::vector<uint8_t> correct;
  std::vector<double> lower, upper;
  std::vector<double> edges = equal_width_edges(kBins);
  std::vector<int64_t> table =
      std::vector<int64_t>(static_cast<size_t>(certcal::table_words(kBins)));
  std::vector<int64_t> sums = std::vector<int64_t>(2);
  std::vector<int8_t> signs = std::vector<int8_t>(kBins);
  std::vector<double> worst;

  explicit Ece(int64_t rows) : worst(static_cast<size_t>(rows)) {
    Random random(4);
    for (int64_t n = 0; n < rows; ++n) {
      const double confidence = std::sqrt(random.unit());
      lower.push_back(std::max(0.0, confidence - 0.3 * random.unit()));
      upper.push_back(std::min(1.0, confidence + 0.3 * random.unit()));
      correct.push_back(random.unit() < confidence);
    }
    for (size_t m = 0; m < signs.size(); ++m) signs[m] = m % 3 == 0 ? -1 : 1;
  }

  int64_t rows() const { return static_cast<int64_t>(correct.size()); }
  certcal::Bins bins() const { return {edges.data(), kBins, false, true}; }

  int64_t update(int threads) {
    return certcal::ece_update_cpu(correct.data(), lower.data(), upper.data(), rows(), bins(),
                                   table.data(), threads);
  }
  int64_t brier(int threads) {
    return certcal::brier_update_cpu(correct.data(), lower.data(), upper.data(), rows(),
                                     sums.data(), threads);
  }
  void worst_confidence(int threads) {
    certcal::ece_worst_confidence_cpu(correct.data(), lower.data(), upper.data(), rows(), bins(),
                                      signs.data(), worst.data(), threads);
  }
};

int plain_bin(double x) {
  return std::clamp(static_cast<int>(std::ceil(x * kBins)) - 1, 0, kBins - 1);
}

double sum_of(const int64_t* words) {
  return static_cast<double>(words[0]) * 0x1p-26 + static_cast<double>(words[1]) * 0x1p-52;
}

// What a row adds to sum over bins of sign x (correct - confidence), at the confidence q.
double gain(const Ece& e, size_t n, double q) {
  const int sign = e.signs[static_cast<size_t>(plain_bin(q))];
  return sign * (static_cast<double>(e.correct[n] != 0) - q);
}

// A row at a time, sums in double. The worst confidence must gain as much as any end of the interval or edge inside it,
// up to the width of the gap beside an open edge.
void check_reference(int threads) {
  Ece e(5000);
  require(e.update(threads) == -1 && e.brier(threads) == -1, "rows are valid");
  e.worst_confidence(threads);
  std::vector<int64_t> counts(2 * kBins * kBins);
  std::vector<double> lowers(counts.size()), uppers(counts.size());
  double squares = 0;
  for (size_t n = 0; n < e.correct.size(); ++n) {
    const bool right = e.correct[n] != 0;
    const auto cell = static_cast<size_t>((right * kBins + plain_bin(e.lower[n])) * kBins +
                                          plain_bin(e.upper[n]));
    ++counts[cell];
    lowers[cell] += e.lower[n];
    uppers[cell] += e.upper[n];
    squares += right ? (1 - e.lower[n]) * (1 - e.lower[n]) : e.upper[n] * e.upper[n];
    double best = std::max(gain(e, n, e.lower[n]), gain(e, n, e.upper[n]));
    for (const double edge : e.edges) {
      for (const double q : {edge, edge + 1e-9}) {
        if (q >= e.lower[n] && q <= e.upper[n]) best = std::max(best, gain(e, n, q));
      }
    }
    require(e.worst[n] >= e.lower[n] && e.worst[n] <= e.upper[n], "worst confidence is inside");
    require(gain(e, n, e.worst[n]) > best - 1e-6, "worst confidence of row " + std::to_string(n));
  }
  for (size_t cell = 0; cell < counts.size(); ++cell) {
    const int64_t* words = e.table.data() + static_cast<int64_t>(cell) * certcal::kCellWords;
    require(words[certcal::kCount] == counts[cell] &&
                std::abs(sum_of(words + certcal::kLowerHigh) - lowers[cell]) < 1e-9 &&
                std::abs(sum_of(words + certcal::kUpperHigh) - uppers[cell]) < 1e-9,
            "cell " + std::to_string(cell));
  }
  require(std::abs(sum_of(e.sums.data()) - squares) < 1e-8, "Brier sum");
}

void add_all(bool) {
  for (const int threads : thread_counts()) check_reference(threads);
  const auto e = std::make_shared<Ece>(1'000'000);
  const auto rows = static_cast<double>(e->rows());
  const std::string shape = "/" + std::to_string(e->rows()) + "x15";
  add_cpu("ece_table" + shape, {17 * rows, 22 * rows}, [=](int threads) { e->update(threads); });
  add_cpu("brier" + shape, {17 * rows, 21 * rows}, [=](int threads) { e->brier(threads); });
  add_cpu("ece_worst_confidence" + shape, {25 * rows, 8 * rows},
          [=](int threads) { e->worst_confidence(threads); });
}

}  // namespace

int main(int argc, char** argv) { return certcal_bench::run(argc, argv, add_all); }
