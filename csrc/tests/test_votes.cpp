// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../core/votes.hpp"
#include "../cpu/votes.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Counted {
  std::vector<int64_t> counts;
  std::vector<uint8_t> near_ties;
  std::vector<int64_t> faults;
  bool operator==(const Counted& o) const {
    return counts == o.counts && near_ties == o.near_ties && faults == o.faults;
  }
};

// Outputs are added to, so they do not start from zero here.
Counted empty_counts(int64_t batch, int64_t draws, int64_t classes) {
  return {std::vector<int64_t>(static_cast<size_t>(batch * classes), 3),
          std::vector<uint8_t>(static_cast<size_t>(batch * draws), 0),
          {10, 20}};
}

template <class Real>
Counted count(const std::vector<Real>& logits, int64_t batch, int64_t draws, int64_t classes,
              double margin, bool with_near_ties, int threads,
              SimdPath path = available_simd_paths().front()) {
  Counted out = empty_counts(batch, draws, classes);
  const std::vector<double> margins(static_cast<size_t>(batch), margin);
  count_votes_cpu(logits.data(), batch, draws, classes, margins.data(), out.counts.data(),
                  with_near_ties ? out.near_ties.data() : nullptr, out.faults.data(), threads,
                  path);
  return out;
}

// The definition, with a sort.
template <class Real>
Counted reference(const std::vector<Real>& logits, int64_t batch, int64_t draws, int64_t classes,
                  double margin, bool with_near_ties) {
  Counted out = empty_counts(batch, draws, classes);
  for (int64_t line = 0; line < batch * draws; ++line) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(line * classes);
    const std::vector<Real> row(begin, begin + static_cast<std::ptrdiff_t>(classes));
    if (std::any_of(row.begin(), row.end(), [](Real x) { return std::isnan(x); })) {
      ++out.faults[0];
      continue;
    }
    if (std::any_of(row.begin(), row.end(), [](Real x) { return std::isinf(x); })) {
      ++out.faults[1];
      continue;
    }
    std::vector<Real> sorted = row;
    std::sort(sorted.begin(), sorted.end(), std::greater<Real>());
    if (with_near_ties && classes > 1 && sorted[0] - sorted[1] < static_cast<Real>(margin)) {
      out.near_ties[static_cast<size_t>(line)] = 1;
      continue;
    }
    const int64_t top = std::max_element(row.begin(), row.end()) - row.begin();  // the first one
    ++out.counts[static_cast<size_t>(line / draws * classes + top)];
  }
  return out;
}

// Few distinct values, so that ties are common; some rows with NaN, infinities, or both.
template <class Real>
std::vector<Real> random_logits(Random& random, int64_t rows, int64_t classes) {
  std::vector<Real> logits;
  for (int64_t k = 0; k < rows * classes; ++k) {
    logits.push_back(static_cast<Real>(random.below(9) - 4) / 4);
  }
  for (int64_t line = 0; line < rows; line += 1 + random.below(9)) {
    for (int k = 0; k < 1 + static_cast<int>(random.below(2)); ++k) {
      const double fault =
          random.below(2) == 0 ? kNan : (random.below(2) == 0 ? kInfinity : -kInfinity);
      logits[static_cast<size_t>(line * classes + random.below(classes))] =
          static_cast<Real>(fault);
    }
  }
  return logits;
}

// What a row may hold that a vector loop could get wrong.
enum class Values { kTied, kNearlyTied, kSignedZeros, kLarge };
constexpr Values kAllValues[] = {Values::kTied, Values::kNearlyTied, Values::kSignedZeros,
                                 Values::kLarge};

template <class Real>
std::vector<Real> logits_of(Random& random, Values values, int64_t size) {
  constexpr Real kEpsilon = std::numeric_limits<Real>::epsilon();
  std::vector<Real> logits;
  for (int64_t k = 0; k < size; ++k) {
    const Real step = static_cast<Real>(random.below(4));
    switch (values) {
      case Values::kTied:
        logits.push_back(step);
        break;
      case Values::kNearlyTied:
        logits.push_back(1 + (random.below(9) == 0 ? 8 : step) * kEpsilon);
        break;
      case Values::kSignedZeros:
        logits.push_back(random.below(2) == 0 ? Real(-0.0) : Real(0.0));
        break;
      case Values::kLarge:
        logits.push_back((2 * step - 3) / 3 * std::numeric_limits<Real>::max());
        break;
    }
  }
  return logits;
}

// NaN or infinities at any place of some rows.
template <class Real>
void put_faults(Random& random, std::vector<Real>& logits, int64_t classes, int64_t among_rows) {
  const int64_t rows = static_cast<int64_t>(logits.size()) / classes;
  for (int64_t r = random.below(among_rows); r < rows; r += 1 + random.below(among_rows)) {
    const double faults[] = {kNan, kInfinity, -kInfinity};
    logits[static_cast<size_t>(r * classes + random.below(classes))] =
        static_cast<Real>(faults[random.below(3)]);
  }
}

template <class Real>
bool same_top(const TopTwo<Real>& a, const TopTwo<Real>& b) {
  return a.best == b.best && a.second == b.second && a.best_class == b.best_class;
}

}  // namespace

TEST_CASE_TEMPLATE("votes are those of the definition for every size, with ties and faults", Real,
                   float, double) {
  Random random(20);
  for (const int64_t classes : {1, 2, 3, 10, 31, 32, 33, 255, 256, 257, 1000}) {
    for (const int64_t draws : {1, 7, 33}) {
      const int64_t batch = 5;
      CAPTURE(classes);
      CAPTURE(draws);
      const auto logits = random_logits<Real>(random, batch * draws, classes);
      for (const bool with_near_ties : {false, true}) {
        for (const double margin : {0.0, 0.25, 0.3}) {
          const Counted expected = reference(logits, batch, draws, classes, margin, with_near_ties);
          for (const int threads : {1, 2, 5}) {
            REQUIRE(count(logits, batch, draws, classes, margin, with_near_ties, threads) ==
                    expected);
          }
        }
      }
    }
  }
}

TEST_CASE("rows enough for several threads, cut in the middle of a sample, give the same counts") {
  Random random(21);
  const int64_t batch = 3;
  const int64_t draws = 20001;
  const int64_t classes = 10;
  const auto logits = random_logits<float>(random, batch * draws, classes);
  const Counted expected = reference(logits, batch, draws, classes, 0.1, true);
  for (const int threads : {1, 2, 3, 7, 64}) {
    CHECK(count(logits, batch, draws, classes, 0.1, true, threads) == expected);
  }
}

TEST_CASE("the lowest index wins a tie, and no rows give no votes") {
  const std::vector<float> tied = {1, 5, 5, 5, 0, 0, 0, 0, -2, -3, -2, -2};
  const Counted out = count(tied, 1, 3, 4, 0.0, false, 1);
  CHECK(out.counts == std::vector<int64_t>{3 + 2, 3 + 1, 3, 3});
  CHECK(count(std::vector<float>(), 0, 5, 4, 0.0, true, 2) == empty_counts(0, 5, 4));
  CHECK(count(std::vector<float>(), 4, 0, 4, 0.0, true, 2) == empty_counts(4, 0, 4));
}

// Samples that begin inside a block of rows, and on every path and thread.
TEST_CASE("each sample has its own margin") {
  Random random(12);
  for (const int64_t draws : {1, 3, 50, 64, 200}) {
    for (const int64_t classes : {2, 10, 70, 300}) {
      const int64_t batch = 7;
      std::vector<float> logits;
      for (int64_t k = 0; k < batch * draws * classes; ++k) {
        logits.push_back(static_cast<float>(random.below(1000)) / 100);
      }
      const std::vector<double> margins = {0.0, 1e9, 0.05, 0.0, 0.3, 1e-30, 2.0};
      Counted expected = empty_counts(batch, draws, classes);
      const int64_t words = draws * classes;
      for (int64_t b = 0; b < batch; ++b) {
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(b * words);
        const std::vector<float> own(begin, begin + static_cast<std::ptrdiff_t>(words));
        const Counted of = reference(own, 1, draws, classes, margins[static_cast<size_t>(b)], true);
        std::copy(of.counts.begin(), of.counts.end(),
                  expected.counts.begin() + static_cast<std::ptrdiff_t>(b * classes));
        std::copy(of.near_ties.begin(), of.near_ties.end(),
                  expected.near_ties.begin() + static_cast<std::ptrdiff_t>(b * draws));
      }
      for (const SimdPath path : available_simd_paths()) {
        for (const int threads : {1, 3}) {
          Counted got = empty_counts(batch, draws, classes);
          count_votes_cpu(logits.data(), batch, draws, classes, margins.data(), got.counts.data(),
                          got.near_ties.data(), got.faults.data(), threads, path);
          REQUIRE(got == expected);
        }
      }
    }
  }
}

TEST_CASE(
    "a near tie is a gap below the margin, and is counted where near ties are not asked for") {
  const std::vector<float> logits = {0.0f, 1.0f, 0.0f, 1.25f, 0.0f, 1.5f};
  const Counted marked = count(logits, 1, 3, 2, 1.25, true, 1);
  CHECK(marked.near_ties == std::vector<uint8_t>{1, 0, 0});
  CHECK(marked.counts == std::vector<int64_t>{3, 3 + 2});
  const Counted counted = count(logits, 1, 3, 2, 1.25, false, 1);
  CHECK(counted.counts == std::vector<int64_t>{3, 3 + 3});
}

TEST_CASE_TEMPLATE("NaN counts before infinity, and the largest finite numbers vote", Real, float,
                   double) {
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  const Real infinity = std::numeric_limits<Real>::infinity();
  const Real largest = std::numeric_limits<Real>::max();
  const std::vector<Real> logits = {nan,       infinity, 0, nan,     1,        0,
                                    -infinity, 1,        0, largest, -largest, 0};
  const Counted out = count(logits, 2, 3, 2, 0.0, false, 1);
  CHECK(out.faults == std::vector<int64_t>{10 + 2, 20 + 1});
  CHECK(out.counts == std::vector<int64_t>{3 + 1, 3, 3, 3 + 2});
}

TEST_CASE_TEMPLATE("every SIMD path counts as the scalar one, for every size", Real, float,
                   double) {
  Random random(31);
  for (const int64_t classes :
       {1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 1000}) {
    for (const int64_t draws : {0, 1, 31, 32, 33, 255, 256, 257, 2049}) {
      if (classes > 100 && draws > 257) continue;
      CAPTURE(classes);
      CAPTURE(draws);
      const int64_t batch = draws < 100 ? 3 : 1;
      for (const Values values : kAllValues) {
        auto logits = logits_of<Real>(random, values, batch * draws * classes);
        if (draws > 32) put_faults(random, logits, classes, 40);
        for (const bool with_near_ties : {false, true}) {
          const Counted scalar =
              count(logits, batch, draws, classes, 1e-6, with_near_ties, 1, SimdPath::kScalar);
          if (draws <= 257) {
            CERTCAL_REQUIRE(scalar ==
                            reference(logits, batch, draws, classes, 1e-6, with_near_ties));
          }
          for (const SimdPath path : available_simd_paths()) {
            for (const int threads : {1, 3}) {
              CERTCAL_REQUIRE(count(logits, batch, draws, classes, 1e-6, with_near_ties, threads,
                                    path) == scalar);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a NaN or infinity is found at every place of a row, on every path") {
  for (const int64_t classes : {1, 2, 3, 4, 5, 9, 16, 17, 33, 64, 65, 100}) {
    for (const double fault : {kNan, -kNan, kInfinity, -kInfinity}) {
      for (const float fill : {0.0f, -1.0f, std::numeric_limits<float>::max()}) {
        // Row r has its fault at place r; one row more has none.
        std::vector<float> logits(static_cast<size_t>((classes + 1) * classes), fill);
        for (int64_t r = 0; r < classes; ++r) {
          logits[static_cast<size_t>(r * classes + r)] = static_cast<float>(fault);
        }
        for (const SimdPath path : available_simd_paths()) {
          CAPTURE(simd_path_name(path));
          const Counted out = count(logits, 1, classes + 1, classes, 0.5, false, 1, path);
          const bool nan = std::isnan(fault);
          CERTCAL_REQUIRE(out.faults ==
                          std::vector<int64_t>{10 + (nan ? classes : 0), 20 + (nan ? 0 : classes)});
          CERTCAL_REQUIRE(out.counts[0] == 3 + 1);  // the lowest of equals
          CERTCAL_REQUIRE(std::count(out.counts.begin(), out.counts.end(), 3) == classes - 1);
        }
      }
    }
  }
}

TEST_CASE("a row scanned in pieces and merged is the row scanned at once, for every split") {
  Random random(22);
  for (int trial = 0; trial < 400; ++trial) {
    const int64_t classes = 1 + random.below(40);
    std::vector<float> row;
    for (int64_t k = 0; k < classes; ++k) row.push_back(static_cast<float>(random.below(6)));
    TopTwo<float> whole;
    for (int64_t k = 0; k < classes; ++k) whole.see(row[static_cast<size_t>(k)], k);
    for (int64_t cut = 0; cut <= classes; ++cut) {
      TopTwo<float> low, high;
      for (int64_t k = 0; k < cut; ++k) low.see(row[static_cast<size_t>(k)], k);
      for (int64_t k = cut; k < classes; ++k) high.see(row[static_cast<size_t>(k)], k);
      TopTwo<float> one_way = low;
      one_way.merge(high);
      TopTwo<float> other_way = high;
      other_way.merge(low);
      CERTCAL_REQUIRE(same_top(one_way, whole));
      CERTCAL_REQUIRE(same_top(other_way, whole));
    }
    // As the lanes of a warp: every lane takes each step-th class, then pairs merge.
    for (const int64_t lanes : {2, 8, 32}) {
      std::vector<TopTwo<float>> lane(static_cast<size_t>(lanes));
      for (int64_t k = 0; k < classes; ++k) {
        lane[static_cast<size_t>(k % lanes)].see(row[static_cast<size_t>(k)], k);
      }
      for (int64_t step = lanes / 2; step > 0; step /= 2) {
        const auto before = lane;
        for (int64_t k = 0; k < lanes; ++k) {
          lane[static_cast<size_t>(k)].merge(before[static_cast<size_t>(k ^ step)]);
        }
      }
      for (const TopTwo<float>& merged : lane) CERTCAL_REQUIRE(same_top(merged, whole));
    }
  }
}
