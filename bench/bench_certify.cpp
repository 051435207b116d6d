// SPDX-License-Identifier: MIT
// The fused bound: 10^6 samples at 64 radii, 15 bins, in 100,001 groups (the counts that 100,000 draws can give) and in as
// many groups as samples.
//
// Bytes: group and correctness of a sample are read once, 9 bytes; interval and point estimate of a group, 24 bytes, once
// (they are read again at every radius, from a cache); the words of the tables are written once.
//
// Operations: one addition a sample; for each group and radius that is certified two Phi of 31 (argument 1, clamp 2, place in
// the table 5, nine fma and two products 20, bound 3; core/normal_cdf.hpp), together 62; for one that is not, one comparison.
// Finding bins and adding integers is work too, but is not counted.
#include <cmath>

#include "../csrc/core/certify.hpp"
#include "../csrc/cpu/certify.hpp"
#include "bench_common.hpp"

namespace {

using namespace certcal_bench;

constexpr int kBins = 15;
constexpr double kPhiOperations = 31;

struct Words {
  std::vector<int64_t> tables, clean, brier;

  explicit Words(size_t radii)
      : tables(radii * static_cast<size_t>(certcal::table_words(kBins))),
        clean(radii * kBins * certcal::kCleanWords),
        brier(radii * certcal::kBrierWords) {}
  size_t bytes() const { return 8 * (tables.size() + clean.size() + brier.size()); }
  bool operator==(const Words& other) const {
    return tables == other.tables && clean == other.clean && brier == other.brier;
  }
};

struct Certify {
  std::vector<int64_t> group;
  std::vector<uint8_t> correct;
  std::vector<double> confidence, probit_lower, probit_upper, shifts;
  std::vector<double> edges = equal_width_edges(kBins);
  Words words;

  Certify(int64_t samples, int64_t groups, int radii) : words(static_cast<size_t>(radii)) {
    Random random(3);
    for (int64_t g = 0; g < groups; ++g) {
      // From 0 to 4 in probit space; the point estimate somewhere inside.
      const double lower =
          4 * (static_cast<double>(g) + random.unit()) / static_cast<double>(groups);
      probit_lower.push_back(lower);
      probit_upper.push_back(lower + 0.1 * random.unit());
      confidence.push_back(0.5 * std::erfc(-0.5 * (lower + probit_upper.back()) / std::sqrt(2.0)));
    }
    for (int64_t n = 0; n < samples; ++n) {
      // Near certainty more often than not, as of a trained model.
      const double place = std::sqrt(random.unit());
      group.push_back(static_cast<int64_t>(place * static_cast<double>(groups)));
      correct.push_back(random.unit() < confidence[static_cast<size_t>(group.back())]);
    }
    for (int r = 0; r < radii; ++r) shifts.push_back(3.6 * r / radii);
  }

  certcal::Bins bins() const { return {edges.data(), kBins, false, true}; }

  void run(int threads) {
    certcal::certify_cpu(group.data(), correct.data(), static_cast<int64_t>(group.size()),
                         confidence.data(), probit_lower.data(), probit_upper.data(),
                         static_cast<int64_t>(confidence.size()), shifts.data(),
                         static_cast<int64_t>(shifts.size()), bins(), words.tables.data(),
                         words.clean.data(), words.brier.data(), threads);
  }

  Work work() const {
    double pairs = 0;
    for (const double shift : shifts) {
      for (const double lower : probit_lower) pairs += lower > shift ? 2 * kPhiOperations : 1;
    }
    const auto samples = static_cast<double>(group.size());
    const auto groups = static_cast<double>(confidence.size());
    return {9 * samples + 24 * groups + static_cast<double>(words.bytes()), samples + pairs};
  }
  std::string shape() const {
    return std::to_string(group.size()) + "x" + std::to_string(shifts.size()) + "/groups_" +
           std::to_string(confidence.size());
  }
};

double sum_of(const int64_t* words) {
  return static_cast<double>(words[0]) * 0x1p-26 + static_cast<double>(words[1]) * 0x1p-52;
}

// A sample at a time, Phi from the C library, sums in double: counts must be equal, sums within 1e-9 a sample.
void check_reference(const Certify& c) {
  const auto phi = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  for (size_t r = 0; r < c.shifts.size(); ++r) {
    const double shift = c.shifts[r];
    double squares = 0, lower_sum = 0, upper_sum = 0;
    int64_t certified = 0;
    std::vector<int64_t> cells(2 * kBins * kBins), clean(kBins);
    for (size_t n = 0; n < c.group.size(); ++n) {
      const auto g = static_cast<size_t>(c.group[n]);
      if (!(c.probit_lower[g] > shift) || !(c.probit_lower[g] > 0)) continue;
      const double lower = phi(c.probit_lower[g] - shift), upper = phi(c.probit_upper[g] + shift);
      const bool right = c.correct[n] != 0;
      squares += right ? (1 - lower) * (1 - lower) : upper * upper;
      lower_sum += lower;
      upper_sum += upper;
      ++certified;
      const auto bin = [&](double x) {
        return std::clamp(static_cast<int>(std::ceil(x * kBins)) - 1, 0, kBins - 1);
      };
      ++cells[static_cast<size_t>((right * kBins + bin(lower)) * kBins + bin(upper))];
      ++clean[static_cast<size_t>(bin(c.confidence[g]))];
    }
    const int64_t* table =
        c.words.tables.data() + static_cast<int64_t>(r) * certcal::table_words(kBins);
    double table_lower = 0, table_upper = 0;
    for (size_t cell = 0; cell < cells.size(); ++cell) {
      const int64_t* of_cell = table + static_cast<int64_t>(cell) * certcal::kCellWords;
      require(of_cell[certcal::kCount] == cells[cell],
              "table of radius " + std::to_string(r) + ", cell " + std::to_string(cell));
      table_lower += sum_of(of_cell + certcal::kLowerHigh);
      table_upper += sum_of(of_cell + certcal::kUpperHigh);
    }
    for (size_t m = 0; m < clean.size(); ++m) {
      require(c.words.clean[(r * kBins + m) * certcal::kCleanWords + certcal::kSamples] == clean[m],
              "clean sums of radius " + std::to_string(r) + ", bin " + std::to_string(m));
    }
    const double tolerance = 1e-9 * static_cast<double>(certified + 1);
    const double brier = sum_of(c.words.brier.data() + r * certcal::kBrierWords);
    require(std::abs(brier - squares) < tolerance, "Brier sum of radius " + std::to_string(r));
    require(std::abs(table_lower - lower_sum) < tolerance, "lower sum, " + std::to_string(r));
    require(std::abs(table_upper - upper_sum) < tolerance, "upper sum, " + std::to_string(r));
  }
}

void add_all(bool /*on_cuda: the bound is taken on the host*/) {
  for (const int threads : thread_counts()) {
    for (const int64_t groups : {101, 5000}) {
      Certify small(5000, groups, 7);
      small.run(threads);
      check_reference(small);
    }
  }
  for (const int64_t groups : {100'001, 1'000'000}) {
    const auto c = std::make_shared<Certify>(1'000'000, groups, 64);
    add_cpu("certify/" + c->shape(), c->work(), [=](int threads) { c->run(threads); });
  }
}

}  // namespace

int main(int argc, char** argv) { return certcal_bench::run(argc, argv, add_all); }
