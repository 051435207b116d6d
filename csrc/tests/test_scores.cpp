// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "../cpu/votes.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

struct Scores {
  std::vector<int64_t> histogram, sums, faults;
  bool operator==(const Scores& o) const {
    return histogram == o.histogram && sums == o.sums && faults == o.faults;
  }
};

template <class Real>
Scores score(const std::vector<Real>& logits, const std::vector<int64_t>* classes, int64_t batch,
             int64_t draws, int64_t num_classes, int64_t bins, int threads,
             SimdPath path = available_simd_paths().front()) {
  Scores out{std::vector<int64_t>(static_cast<size_t>(batch * bins), 0),
             std::vector<int64_t>(static_cast<size_t>(batch * 2), 0),
             {0, 0}};
  score_histogram_cpu(logits.data(), classes != nullptr ? classes->data() : nullptr, batch, draws,
                      num_classes, bins, out.histogram.data(), out.sums.data(), out.faults.data(),
                      threads, path);
  return out;
}

template <class Real>
std::vector<Real> random_logits(Random& random, int64_t size, double scale) {
  std::vector<Real> logits;
  for (int64_t k = 0; k < size; ++k) {
    logits.push_back(static_cast<Real>(random.between(-scale, scale)));
  }
  return logits;
}

// The score of one row alone.
template <class Real>
double score_of_row(const std::vector<Real>& row, int64_t chosen) {
  const std::vector<int64_t> classes = {chosen};
  const Scores out = score(row, &classes, 1, 1, static_cast<int64_t>(row.size()), 1, 1);
  return std::ldexp(static_cast<double>((out.sums[0] << kLowBits) + out.sums[1]), -kFractionBits);
}

}  // namespace

// Tolerance: half a unit of rounding, then 2^-22 relative for the polynomial (2^-24), the reduced argument (2^-25 |x| /
// 23 at most) and four float roundings.
TEST_CASE("exp_units by shifts has the units of doubles") {
  for (uint32_t bits = 0; bits < bits_of(24.0f); bits += 977) {
    const float x = -float_of(bits);
    CERTCAL_REQUIRE(exp_units_by_shifts(x) == exp_units_by_doubles(x));
  }
  for (const float x : {-23.0f, -24.0f, -std::numeric_limits<float>::infinity(),
                        std::numeric_limits<float>::quiet_NaN()}) {
    CHECK(exp_units_by_shifts(x) == 0);
  }
  for (int half = 0; half < 68; ++half) {  // where the number of turns changes
    const float near = -static_cast<float>(half) * 0.34657359f;
    float x = std::min(0.0f, std::nextafterf(near, 0.0f));
    for (int k = 0; k < 3000; ++k) x = std::min(0.0f, std::nextafterf(x, 1.0f));
    for (int k = 0; k < 6000; ++k, x = std::nextafterf(x, -100.0f)) {
      CERTCAL_REQUIRE(exp_units_by_shifts(x) == exp_units_by_doubles(x));
    }
  }
}

TEST_CASE("exp_units is exp in units of 2^-32") {
  std::vector<float> arguments = {0.0f, -0.0f, -1e-30f, -0.34657f, -0.34658f, -22.99999f, -23.0f};
  Random random(23);
  for (int k = 0; k < 300000; ++k) {
    arguments.push_back(static_cast<float>(random.between(-24.0, 0.0)));
    arguments.push_back(
        static_cast<float>(-std::ldexp(random.unit(), -static_cast<int>(random.below(40)))));
  }
  for (const float x : arguments) {
    const long double exact = std::exp(static_cast<long double>(x)) * 0x1p32L;
    const long double units = static_cast<long double>(exp_units(x));
    const long double allowed = x > kExpUnderflow ? 0.5L + exact * 0x1p-22L : 1.0L;
    CERTCAL_REQUIRE(std::fabs(units - exact) <= allowed);
  }
  CHECK(exp_units(0.0f) == uint64_t{1} << 32);
  CHECK(exp_units(-23.0f) == 0);
  CHECK(exp_units(-std::numeric_limits<float>::infinity()) == 0);
  CHECK(exp_units(-std::numeric_limits<float>::max()) == 0);
}

// Tolerance: 2^-21 for both exponentials, and half a unit of 2^-32 for each class in the sum (0.5 * classes * 2^-32).
TEST_CASE_TEMPLATE("a score is the softmax of the row", Real, float, double) {
  Random random(24);
  for (const int64_t classes : {1, 2, 3, 10, 100, 1000, 20000}) {
    for (const double scale : {0.01, 1.0, 12.0, 1000.0}) {
      const auto row = random_logits<Real>(random, classes, scale);
      const int64_t top = std::max_element(row.begin(), row.end()) - row.begin();
      for (const int64_t chosen : {top, classes / 2, classes - 1}) {
        long double sum = 0;
        const auto term = [&](int64_t k) {
          return std::exp(static_cast<long double>(row[static_cast<size_t>(k)]) -
                          static_cast<long double>(row[static_cast<size_t>(top)]));
        };
        for (int64_t k = 0; k < classes; ++k) sum += term(k);
        // The difference to the largest logit is rounded to a float.
        const long double difference = std::fabs(std::log(std::max(term(chosen), 1e-11L)));
        const long double tolerance =
            0x1p-21L + difference * 0x1p-24L + static_cast<long double>(classes) * 0x1p-33L;
        CAPTURE(classes);
        CAPTURE(scale);
        CHECK(std::fabs(static_cast<long double>(score_of_row(row, chosen)) - term(chosen) / sum) <=
              tolerance);
      }
    }
  }
}

TEST_CASE("a score does not depend on the order of the classes") {
  Random random(25);
  for (int trial = 0; trial < 200; ++trial) {
    auto row = random_logits<float>(random, 257, 6.0);
    std::vector<size_t> order(row.size());
    std::iota(order.begin(), order.end(), size_t{0});
    for (size_t k = order.size() - 1; k > 0; --k) {
      std::swap(order[k], order[static_cast<size_t>(random.below(static_cast<int64_t>(k) + 1))]);
    }
    std::vector<float> shuffled(row.size());
    for (size_t k = 0; k < row.size(); ++k) shuffled[k] = row[order[k]];
    CERTCAL_REQUIRE(score_of_row(shuffled, 5) == score_of_row(row, static_cast<int64_t>(order[5])));
  }
}

TEST_CASE_TEMPLATE("histogram and sums are those of a loop over the rows, for any threads", Real,
                   float, double) {
  Random random(26);
  const int64_t batch = 3;
  for (const int64_t num_classes : {1, 2, 10, 33, 1000}) {
    for (const int64_t bins : {1, 10, 257}) {
      const int64_t draws = num_classes == 10 ? 9001 : 65;
      auto logits = random_logits<Real>(random, batch * draws * num_classes, 3.0);
      logits[static_cast<size_t>(num_classes)] = std::numeric_limits<Real>::quiet_NaN();
      logits[static_cast<size_t>(2 * num_classes)] = std::numeric_limits<Real>::infinity();
      const std::vector<int64_t> chosen = {0, num_classes / 2, num_classes - 1};
      for (const std::vector<int64_t>* classes :
           {&chosen, static_cast<const std::vector<int64_t>*>(nullptr)}) {
        Scores expected{std::vector<int64_t>(static_cast<size_t>(batch * bins), 0),
                        std::vector<int64_t>(static_cast<size_t>(batch * 2), 0),
                        {1, 1}};
        for (int64_t line = 0; line < batch * draws; ++line) {
          if (line == 1 || line == 2) continue;
          const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(line * num_classes);
          const std::vector<Real> row(begin, begin + static_cast<std::ptrdiff_t>(num_classes));
          const size_t b = static_cast<size_t>(line / draws);
          const int64_t top = std::max_element(row.begin(), row.end()) - row.begin();
          const double z = score_of_row(row, classes != nullptr ? chosen[b] : top);
          const int64_t j =
              std::min<int64_t>(static_cast<int64_t>(z * static_cast<double>(bins)), bins - 1);
          ++expected.histogram[b * static_cast<size_t>(bins) + static_cast<size_t>(j)];
          expected.sums[2 * b] += fixed_floor(z) >> kLowBits;
          expected.sums[2 * b + 1] += fixed_floor(z) & kLowMask;
        }
        for (const int threads : {1, 2, 5}) {
          const Scores out = score(logits, classes, batch, draws, num_classes, bins, threads);
          CHECK(out == expected);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("every SIMD path scores as the scalar one, for every size", Real, float,
                   double) {
  Random random(33);
  for (const int64_t classes :
       {1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 1000}) {
    for (const int64_t draws : {0, 1, 31, 32, 33, 255, 256, 257, 2049}) {
      if (classes > 100 && draws > 257) continue;
      CAPTURE(classes);
      CAPTURE(draws);
      const int64_t batch = draws < 100 ? 3 : 1;
      for (const double scale : {0.0, 0.01, 3.0, 20.0, 1e30}) {
        auto logits = random_logits<Real>(random, batch * draws * classes, scale);
        for (size_t k = 0; k + 7 < logits.size(); k += 1 + static_cast<size_t>(random.below(9))) {
          logits[k + 7] = logits[k];  // ties
        }
        if (draws > 32) {
          const double infinity = std::numeric_limits<double>::infinity();
          for (const double fault : {std::nan(""), infinity, -infinity}) {
            const int64_t k = random.below(static_cast<int64_t>(logits.size()));
            logits[static_cast<size_t>(k)] = static_cast<Real>(fault);
          }
        }
        const std::vector<int64_t> chosen = {0, classes / 2, classes - 1};
        for (const std::vector<int64_t>* which :
             {&chosen, static_cast<const std::vector<int64_t>*>(nullptr)}) {
          const Scores scalar =
              score(logits, which, batch, draws, classes, 10, 1, SimdPath::kScalar);
          for (const SimdPath path : available_simd_paths()) {
            CERTCAL_REQUIRE(score(logits, which, batch, draws, classes, 10, 1, path) == scalar);
            CERTCAL_REQUIRE(score(logits, which, batch, draws, classes, 10, 3, path) == scalar);
          }
        }
      }
    }
  }
}

// Each sample is one row, so that its sum shows the units of its smaller logits. Among so many arguments are some whose
// exponential lies exactly between two units.
TEST_CASE_TEMPLATE("the units of an exponential are the same on every path", Real, float, double) {
  Random random(34);
  for (const int64_t classes : {2, 70}) {
    const int64_t rows = classes == 2 ? 400000 : 6000;
    std::vector<Real> logits(static_cast<size_t>(rows * classes));
    for (size_t k = 0; k < logits.size(); ++k) {
      const bool first = k % static_cast<size_t>(classes) == 0;
      logits[k] = first ? Real(0) : static_cast<Real>(random.between(-23.5, 0.0));
    }
    const Scores scalar = score<Real>(logits, nullptr, rows, 1, classes, 1, 1, SimdPath::kScalar);
    for (const SimdPath path : available_simd_paths()) {
      CAPTURE(simd_path_name(path));
      CHECK(score<Real>(logits, nullptr, rows, 1, classes, 1, 2, path) == scalar);
    }
  }
}

TEST_CASE("score bins are [j / J, (j + 1) / J), the last with 1") {
  CHECK(score_bin(0.0, 10) == 0);
  CHECK(score_bin(1.0, 10) == 9);
  CHECK(score_bin(0.5, 10) == 5);
  CHECK(score_bin(std::nextafter(0.5, 0.0), 10) == 4);
  CHECK(score_bin(std::nextafter(1.0, 0.0), 10) == 9);
  CHECK(score_bin(1.0, 1) == 0);
  CHECK(score_of(uint64_t{1} << 32, uint64_t{1} << 32) == 1.0);
  CHECK(score_of(0, uint64_t{1} << 32) == 0.0);
}
