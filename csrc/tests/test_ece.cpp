// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../core/certify.hpp"
#include "../core/ece_solve.hpp"
#include "../cpu/ece.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::equal_width_edges;
using certcal_tests::Random;

namespace {

struct Samples {
  std::vector<uint8_t> correct;
  std::vector<double> lower, upper;
  std::vector<double> edges;
  bool closed_left = false;

  int64_t size() const { return static_cast<int64_t>(lower.size()); }
  int bin_count() const { return static_cast<int>(edges.size()) - 1; }
  Bins bins() const {
    return {edges.data(), bin_count(), closed_left, edges_are_uniform(edges.data(), bin_count())};
  }
  void push(int c, double l, double u) {
    correct.push_back(static_cast<uint8_t>(c));
    lower.push_back(l);
    upper.push_back(u);
  }
  std::vector<int64_t> table(int threads = 1) const {
    std::vector<int64_t> words(static_cast<size_t>(table_words(bin_count())), 0);
    const int64_t invalid = ece_update_cpu(correct.data(), lower.data(), upper.data(), size(),
                                           bins(), words.data(), threads);
    REQUIRE(invalid == -1);
    return words;
  }
};

// With `grid`, every bound and edge is a multiple of 1 / 64, many of them equal to an edge: sums are then exact.
Samples random_samples(Random& random, int64_t size, int bin_count, bool grid) {
  Samples samples;
  samples.closed_left = random.below(2) == 1;
  if (grid) {
    std::vector<double> inner;
    for (int k = 1; k < 64; ++k) inner.push_back(k / 64.0);
    for (size_t k = inner.size() - 1; k > 0; --k) {
      std::swap(inner[k], inner[static_cast<size_t>(random.below(static_cast<int64_t>(k) + 1))]);
    }
    samples.edges.assign(inner.begin(), inner.begin() + bin_count - 1);
    samples.edges.push_back(0.0);
    samples.edges.push_back(1.0);
    std::sort(samples.edges.begin(), samples.edges.end());
  } else {
    samples.edges = equal_width_edges(bin_count);
  }
  for (int64_t n = 0; n < size; ++n) {
    const auto bound = [&] {
      if (random.below(4) == 0) {
        return samples.edges[static_cast<size_t>(random.below(bin_count + 1))];
      }
      return grid ? static_cast<double>(random.below(65)) / 64.0 : random.unit();
    };
    double l = bound();
    double u = random.below(6) == 0 ? l : bound();
    if (l > u) std::swap(l, u);
    samples.push(static_cast<int>(random.below(2)), l, u);
  }
  return samples;
}

// Whether bin m and [l, u] have a point in common.
bool reaches(const Samples& samples, size_t n, int m) {
  const double left = samples.edges[static_cast<size_t>(m)];
  const double right = samples.edges[static_cast<size_t>(m) + 1];
  const double l = samples.lower[n];
  const double u = samples.upper[n];
  if (samples.closed_left)
    return u >= left && (l < right || (m == samples.bin_count() - 1 && l <= right));
  return l <= right && (u > left || (m == 0 && u >= left));
}

// The two ends of the closure of bin m within [l, u]: |E_m| is convex in z, so a worst case lies at ends.
std::pair<double, double> ends(const Samples& samples, size_t n, int m) {
  return {std::max(samples.lower[n], samples.edges[static_cast<size_t>(m)]),
          std::min(samples.upper[n], samples.edges[static_cast<size_t>(m) + 1])};
}

// f_n(s) of the design page: the most that one sample gives for the signs.
long double best_for_signs(const Samples& samples, size_t n, const std::vector<int>& signs) {
  long double best = -std::numeric_limits<long double>::infinity();
  for (int m = 0; m < samples.bin_count(); ++m) {
    if (!reaches(samples, n, m)) continue;
    const auto [low, high] = ends(samples, n, m);
    for (const double z : {low, high}) {
      const long double error = static_cast<long double>(samples.correct[n]) - z;
      best = std::max(best, signs[static_cast<size_t>(m)] * error);
    }
  }
  return best;
}

long double total_for_signs(const Samples& samples, const std::vector<int>& signs) {
  long double total = 0;
  for (size_t n = 0; n < samples.lower.size(); ++n) total += best_for_signs(samples, n, signs);
  return total;
}

// The sum over all samples, not the mean: exact where the samples are on a grid.
long double brute_force(const Samples& samples) {
  const int m = samples.bin_count();
  long double best = -std::numeric_limits<long double>::infinity();
  for (unsigned mask = 0; mask < 1u << m; ++mask) {
    std::vector<int> signs;
    for (int k = 0; k < m; ++k) signs.push_back((mask >> k & 1u) != 0 ? 1 : -1);
    best = std::max(best, total_for_signs(samples, signs));
  }
  return best;
}

// Every choice of a bin and an end for every sample, and the ECE of each choice: knows nothing of signs.
void enumerate(const Samples& samples, size_t n, std::vector<long double>& errors,
               long double& best) {
  if (n == samples.lower.size()) {
    long double sum = 0;
    for (const long double e : errors) sum += std::fabs(e);
    best = std::max(best, sum);
    return;
  }
  for (int m = 0; m < samples.bin_count(); ++m) {
    if (!reaches(samples, n, m)) continue;
    const auto [low, high] = ends(samples, n, m);
    for (const double z : {low, high}) {
      const long double error = static_cast<long double>(samples.correct[n]) - z;
      errors[static_cast<size_t>(m)] += error;
      enumerate(samples, n + 1, errors, best);
      errors[static_cast<size_t>(m)] -= error;
    }
  }
}

long double plain_ece(const Samples& samples, const std::vector<double>& confidence) {
  std::vector<long double> errors(static_cast<size_t>(samples.bin_count()), 0.0L);
  for (size_t n = 0; n < confidence.size(); ++n) {
    errors[static_cast<size_t>(bin_of(confidence[n], samples.bins()))] +=
        static_cast<long double>(samples.correct[n]) - confidence[n];
  }
  long double sum = 0;
  for (const long double e : errors) sum += std::fabs(e);
  return sum / static_cast<long double>(samples.size());
}

// `value` is rounded up: not below the exact optimum, and above it by less than `slack`.
void check_value(double value, long double exact, long double slack) {
  CERTCAL_REQUIRE(static_cast<long double>(value) >= exact);
  CERTCAL_REQUIRE(static_cast<long double>(value) <= exact + slack);
}

}  // namespace

TEST_CASE(
    "the recursion is the maximum over all sign vectors, and its signs reach it: exact sums, "
    "ties") {
  Random random(12);
  for (int trial = 0; trial < 3000; ++trial) {
    CAPTURE(trial);
    const int bins = 1 + static_cast<int>(random.below(8));
    const Samples samples = random_samples(random, 1 + random.below(24), bins, true);
    const EceSolution solution = solve_ece(samples.table().data(), samples.bins());
    const long double exact = brute_force(samples);
    check_value(solution.value, exact / static_cast<long double>(samples.size()), 1e-15L);
    std::vector<int> signs(solution.signs.begin(), solution.signs.end());
    for (const int s : signs) CERTCAL_REQUIRE(s == 1 || s == -1);
    CERTCAL_REQUIRE(total_for_signs(samples, signs) == exact);
  }
}

TEST_CASE("the recursion is the maximum over all sign vectors: arbitrary doubles, equal bins") {
  Random random(13);
  for (int trial = 0; trial < 500; ++trial) {
    CAPTURE(trial);
    const int bins = 1 + static_cast<int>(random.below(8));
    const Samples samples = random_samples(random, 1 + random.below(200), bins, false);
    const EceSolution solution = solve_ece(samples.table().data(), samples.bins());
    // A bound or edge moves outward by at most 2^-52 per sample; the rest is the rounding of the value.
    const long double exact = brute_force(samples) / static_cast<long double>(samples.size());
    // The sums of this reference are rounded, too.
    check_value(solution.value, exact - 1e-17L, 1e-15L);
  }
}

TEST_CASE("the recursion is the maximum over every choice of bins and ends") {
  Random random(14);
  for (int trial = 0; trial < 400; ++trial) {
    CAPTURE(trial);
    const Samples samples =
        random_samples(random, 1 + random.below(5), 1 + static_cast<int>(random.below(4)), true);
    std::vector<long double> errors(static_cast<size_t>(samples.bin_count()), 0.0L);
    long double best = 0;
    enumerate(samples, 0, errors, best);
    const EceSolution solution = solve_ece(samples.table().data(), samples.bins());
    check_value(solution.value, best / static_cast<long double>(samples.size()), 1e-15L);
  }
}

TEST_CASE("the worst confidences lie in their intervals and reach the value") {
  Random random(15);
  for (int trial = 0; trial < 2000; ++trial) {
    CAPTURE(trial);
    const int bins = 1 + static_cast<int>(random.below(20));
    const Samples samples = random_samples(random, 1 + random.below(60), bins, trial % 2 == 0);
    const EceSolution solution = solve_ece(samples.table().data(), samples.bins());
    std::vector<double> worst(samples.lower.size());
    ece_worst_confidence_cpu(samples.correct.data(), samples.lower.data(), samples.upper.data(),
                             samples.size(), samples.bins(), solution.signs.data(), worst.data(),
                             1 + trial % 3);
    for (size_t n = 0; n < worst.size(); ++n) {
      CERTCAL_REQUIRE(worst[n] >= samples.lower[n] && worst[n] <= samples.upper[n]);
    }
    const long double reached = plain_ece(samples, worst);
    CERTCAL_REQUIRE(reached <= static_cast<long double>(solution.value));
    // An open edge is approached to one step of the double.
    CERTCAL_REQUIRE(reached >= static_cast<long double>(solution.value) - 1e-14L);
  }
}

TEST_CASE("no confidences inside the intervals exceed the value, and points give the plain ECE") {
  Random random(16);
  for (int trial = 0; trial < 300; ++trial) {
    CAPTURE(trial);
    Samples samples = random_samples(random, 1 + random.below(40), 15, false);
    const double value = solve_ece(samples.table().data(), samples.bins()).value;
    std::vector<double> confidence(samples.lower.size());
    for (size_t n = 0; n < confidence.size(); ++n) {
      confidence[n] = std::clamp(random.between(samples.lower[n], samples.upper[n]),
                                 samples.lower[n], samples.upper[n]);
    }
    const long double plain = plain_ece(samples, confidence);
    CERTCAL_REQUIRE(plain <= static_cast<long double>(value));
    samples.lower = samples.upper = confidence;
    check_value(solve_ece(samples.table().data(), samples.bins()).value, plain - 1e-17L, 1e-15L);
  }
}

TEST_CASE("an empty table gives 0, and one sample its larger error") {
  Samples samples;
  samples.edges = equal_width_edges(15);
  CHECK(solve_ece(samples.table().data(), samples.bins()).value == 0.0);
  samples.push(1, 0.25, 0.75);
  CHECK(solve_ece(samples.table().data(), samples.bins()).value == doctest::Approx(0.75));
  Samples everything;
  everything.edges = {0.0, 1.0};
  everything.push(1, 0.0, 1.0);
  everything.push(0, 0.0, 1.0);
  CHECK(solve_ece(everything.table().data(), everything.bins()).value == doctest::Approx(0.5));
  everything.edges = {0.0, 0.5,
                      1.0};  // apart, the two errors no longer cancel; more than 1 is never said
  const double value = solve_ece(everything.table().data(), everything.bins()).value;
  CHECK(value == 1.0);
}

TEST_CASE("tables add: any split, any order, any number of threads, to the bit") {
  Random random(17);
  const Samples whole = random_samples(random, 200001, 15, false);
  const std::vector<int64_t> expected = whole.table(1);
  for (const int threads : {2, 3, 8}) CHECK(whole.table(threads) == expected);

  std::vector<int64_t> merged(expected.size(), 0);
  for (int part = 6; part >= 0; --part) {
    Samples piece;
    piece.edges = whole.edges;
    piece.closed_left = whole.closed_left;
    for (size_t n = static_cast<size_t>(part); n < whole.lower.size(); n += 7) {
      piece.push(whole.correct[n], whole.lower[n], whole.upper[n]);
    }
    const std::vector<int64_t> table = piece.table(2);
    for (size_t w = 0; w < merged.size(); ++w) merged[w] += table[w];
  }
  CHECK(merged == expected);
}

TEST_CASE("a cell of nothing but ones, the largest words there are, sums exactly") {
  for (const int64_t rows : {1, 31, 32, 33, 63, 64, 65, 2047, 2048, 2049, 100001}) {
    CAPTURE(rows);
    Samples samples;
    samples.edges = {0.0, 1.0};
    for (int64_t n = 0; n < rows; ++n) samples.push(1, 1.0, 1.0);
    const std::vector<int64_t> expected = {0, 0, 0, 0, 0, rows, rows << 26, 0, rows << 26, 0};
    CHECK(samples.table(1) == expected);
    CHECK(samples.table(3) == expected);
    // The largest lower words: just below a multiple of 2^-26.
    const double below = 1.0 - 0x1p-52;
    samples.lower.assign(samples.lower.size(), below);
    samples.upper = samples.lower;
    const int64_t high = rows * kLowMask;
    CHECK(samples.table(2) == std::vector<int64_t>{0, 0, 0, 0, 0, rows, high, high, high, high});
  }
}

TEST_CASE(
    "every way to fill a table gives the table of a loop over its rows: few bins and many, uneven "
    "ones, any threads") {
  Random random(20);
  for (const int bins : {1, 2, 15, 40, 300, 400}) {
    for (const int kind : {0, 1, 2}) {
      CAPTURE(bins);
      CAPTURE(kind);
      Samples samples = random_samples(random, 70001, bins, false);
      if (kind >
          0) {  // edges on the cells of the lookup, or anywhere, some of them neighbouring doubles
        for (int k = 1; k < bins; ++k) {
          samples.edges[static_cast<size_t>(k)] =
              kind == 1 ? static_cast<double>(4 * k + static_cast<int>(random.below(3))) / 2048.0
              : random.below(3) == 0
                  ? std::nextafter(samples.edges[static_cast<size_t>(k) - 1], 1.0)
                  : (k + random.unit()) / (bins + 1);
        }
        for (size_t n = 0; n < samples.lower.size(); n += 3) {
          const auto at = static_cast<size_t>(random.below(bins + 1));
          samples.lower[n] = samples.edges[at];
          samples.upper[n] = std::max(samples.upper[n], samples.lower[n]);
        }
      }
      std::sort(samples.edges.begin(), samples.edges.end());
      const Bins of = samples.bins();
      std::vector<int64_t> expected(static_cast<size_t>(table_words(bins)), 0);
      for (size_t n = 0; n < samples.lower.size(); ++n) {
        int64_t* cell =
            expected.data() + cell_index(samples.correct[n], bin_of(samples.lower[n], of),
                                         bin_of(samples.upper[n], of), bins);
        cell[kCount] += 1;
        add_words(cell + kLowerHigh, fixed_floor(samples.lower[n]), 1);
        add_words(cell + kUpperHigh, fixed_ceil(samples.upper[n]), 1);
      }
      for (const int threads : {1, 4}) CERTCAL_REQUIRE(samples.table(threads) == expected);
      samples.lower[40000] = 2.0;
      CERTCAL_REQUIRE(ece_update_cpu(samples.correct.data(), samples.lower.data(),
                                     samples.upper.data(), samples.size(), of, expected.data(),
                                     4) == 40000);
    }
  }
}

TEST_CASE("the first row that is not valid is named, and nothing is added") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  Random random(18);
  for (const auto& [l, u] : std::vector<std::pair<double, double>>{
           {nan, 0.5}, {0.5, nan}, {0.6, 0.5}, {-1e-9, 0.5}, {0.5, 1.0 + 1e-9}, {0.1, infinity}}) {
    for (const int64_t row : {int64_t{0}, int64_t{4097}, int64_t{99999}}) {
      for (const int threads : {1, 3}) {
        Samples samples = random_samples(random, 100000, 10, false);
        samples.lower[static_cast<size_t>(row)] = l;
        samples.upper[static_cast<size_t>(row)] = u;
        samples.lower[99999] = nan;
        std::vector<int64_t> table(static_cast<size_t>(table_words(10)), 5);
        std::vector<int64_t> sums(2, 5);
        CHECK(ece_update_cpu(samples.correct.data(), samples.lower.data(), samples.upper.data(),
                             samples.size(), samples.bins(), table.data(), threads) == row);
        CHECK(brier_update_cpu(samples.correct.data(), samples.lower.data(), samples.upper.data(),
                               samples.size(), sums.data(), threads) == row);
        CHECK(std::count(table.begin(), table.end(), 5) ==
              static_cast<std::ptrdiff_t>(table.size()));
        CHECK(sums == std::vector<int64_t>{5, 5});
      }
    }
  }
}

TEST_CASE("the Brier sums are those of a loop over the samples, for any number of threads") {
  Random random(19);
  const Samples samples = random_samples(random, 150001, 15, false);
  WideInt exact = 0;
  long double real = 0;
  for (size_t n = 0; n < samples.lower.size(); ++n) {
    exact += worst_square(samples.correct[n], samples.lower[n], samples.upper[n]);
    const long double distance = samples.correct[n] != 0
                                     ? 1.0L - samples.lower[n]
                                     : static_cast<long double>(samples.upper[n]);
    real += distance * distance;
  }
  for (const int threads : {1, 2, 5}) {
    std::vector<int64_t> sums(2, 0);
    CHECK(brier_update_cpu(samples.correct.data(), samples.lower.data(), samples.upper.data(),
                           samples.size(), sums.data(), threads) == -1);
    const WideInt sum = join_words(sums[0], sums[1]);
    CHECK((sum == exact));
    const long double mean = static_cast<long double>(sum) * 0x1p-52L / 150001.0L;
    CHECK(mean >= real / 150001.0L);
    CHECK(mean <= real / 150001.0L + 1e-15L);
  }
}
