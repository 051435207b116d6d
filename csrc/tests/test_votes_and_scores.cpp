// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include "../cpu/votes.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

struct Both {
  std::vector<int64_t> counts;
  std::vector<uint8_t> near_ties;
  std::vector<int64_t> histogram, sums, faults;
  bool operator==(const Both& o) const {
    return counts == o.counts && near_ties == o.near_ties && histogram == o.histogram &&
           sums == o.sums && faults == o.faults;
  }
};

struct Shape {
  int64_t batch, draws, classes, bins;
};

// Outputs are added to, so they do not start from zero.
Both empty(const Shape& s) {
  return {std::vector<int64_t>(static_cast<size_t>(s.batch * s.classes), 3),
          std::vector<uint8_t>(static_cast<size_t>(s.batch * s.draws), 0),
          std::vector<int64_t>(static_cast<size_t>(s.batch * s.bins), 5),
          std::vector<int64_t>(static_cast<size_t>(s.batch * 2), 7),
          {10, 20}};
}

// Of neighbours, which differ.
std::vector<double> margins_of(const Shape& s) {
  std::vector<double> margins;
  for (int64_t b = 0; b < s.batch; ++b) margins.push_back(b % 2 == 0 ? 0.01 : 0.3);
  return margins;
}

template <class Real>
Both in_two_passes(const std::vector<Real>& logits, const int64_t* classes, const Shape& s,
                   bool marks) {
  Both out = empty(s);
  std::vector<int64_t> faults_again = {0, 0};
  count_votes_cpu(logits.data(), s.batch, s.draws, s.classes, margins_of(s).data(),
                  out.counts.data(), marks ? out.near_ties.data() : nullptr, out.faults.data(), 1,
                  SimdPath::kScalar);
  score_histogram_cpu(logits.data(), classes, s.batch, s.draws, s.classes, s.bins,
                      out.histogram.data(), out.sums.data(), faults_again.data(), 1,
                      SimdPath::kScalar);
  return out;
}

template <class Real>
Both in_one_pass(const std::vector<Real>& logits, const int64_t* classes, const Shape& s,
                 bool marks, int threads, SimdPath path) {
  Both out = empty(s);
  count_votes_and_scores_cpu(logits.data(), classes, s.batch, s.draws, s.classes, s.bins,
                             margins_of(s).data(), out.counts.data(),
                             marks ? out.near_ties.data() : nullptr, out.histogram.data(),
                             out.sums.data(), out.faults.data(), threads, path);
  return out;
}

// A grid of values, so that rows tie, nearly tie, and do not.
template <class Real>
std::vector<Real> logits_of(Random& random, const Shape& s) {
  std::vector<Real> logits;
  for (int64_t k = 0; k < s.batch * s.draws * s.classes; ++k) {
    logits.push_back(static_cast<Real>(static_cast<double>(random.below(4000)) / 400));
  }
  for (int64_t r = 3; r < s.batch * s.draws; r += 17) {
    const Real fault = r % 2 == 0 ? std::numeric_limits<Real>::quiet_NaN()
                                  : -std::numeric_limits<Real>::infinity();
    logits[static_cast<size_t>(r * s.classes + random.below(s.classes))] = fault;
  }
  return logits;
}

}  // namespace

TEST_CASE_TEMPLATE("votes and scores of one pass are those of two, on every path", Real, float,
                   double) {
  Random random(41);
  for (const Shape& s : std::vector<Shape>{{0, 5, 3, 10},
                                           {5, 0, 3, 10},
                                           {1, 1, 1, 1},
                                           {3, 65, 2, 7},
                                           {2, 701, 10, 1000},
                                           {1, 20001, 10, 1000},
                                           {2, 33, 64, 100},
                                           {2, 129, 65, 4096},
                                           {3, 40, 128, 100},
                                           {3, 40, 129, 100},
                                           {2, 70, 1000, 1000}}) {
    CAPTURE(s.classes);
    CAPTURE(s.draws);
    const auto logits = logits_of<Real>(random, s);
    std::vector<int64_t> chosen;
    for (int64_t b = 0; b < s.batch; ++b) chosen.push_back(random.below(s.classes));
    const int64_t* chosen_data = chosen.data();
    for (const int64_t* classes : {static_cast<const int64_t*>(nullptr), chosen_data}) {
      for (const bool marks : {false, true}) {
        const Both expected = in_two_passes(logits, classes, s, marks);
        for (const SimdPath path : available_simd_paths()) {
          CAPTURE(simd_path_name(path));
          for (const int threads : {1, 3}) {
            REQUIRE(in_one_pass(logits, classes, s, marks, threads, path) == expected);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("100,000 classes and 4096 bins", Real, float, double) {
  Random random(42);
  const Shape s{2, 9, 100000, 4096};
  const auto logits = logits_of<Real>(random, s);
  const std::vector<int64_t> chosen = {99999, 54321};
  const Both expected = in_two_passes(logits, chosen.data(), s, true);
  int64_t scores = 0;
  for (const int64_t count : expected.histogram) scores += count - 5;
  CHECK(scores == 2 * 9 - 1);  // row 3 holds an infinity
  for (const SimdPath path : available_simd_paths()) {
    CHECK(in_one_pass(logits, chosen.data(), s, true, 2, path) == expected);
  }
}
