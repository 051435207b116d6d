// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "../core/certify.hpp"
#include "../core/fixed_point.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

__extension__ typedef __int128 Wide;

std::vector<double> confidences() {
  std::vector<double> points = {0.0,     1.0,       0.5,       0x1p-52,
                                0x1p-53, 0x1p-1074, 0x1p-1022, 1.0 - 0x1p-53};
  Random random(5);
  for (int k = 0; k < 100000; ++k) {
    points.push_back(random.unit());
    points.push_back(std::ldexp(random.unit(), -static_cast<int>(random.below(80))));
    points.push_back(1.0 - std::ldexp(random.unit(), -static_cast<int>(random.below(53))));
  }
  return points;
}

std::vector<int64_t> fixed_points() {
  std::vector<int64_t> points;
  for (int k = 0; k <= 52; ++k) {
    for (int64_t step = -2; step <= 2; ++step) {
      const int64_t q = (int64_t{1} << k) + step;
      if (q >= 0 && q <= kOne) points.push_back(q);
    }
  }
  Random random(6);
  for (int k = 0; k < 200000; ++k) {
    points.push_back(random.below(kOne + 1));
    points.push_back(random.below(kOne + 1) >> random.below(52));
    points.push_back(random.below(kOne >> 26) << 26);
  }
  return points;
}

}  // namespace

TEST_CASE("floor and ceiling are the neighbouring multiples of 2^-52") {
  for (const double x : confidences()) {
    const long double scaled = static_cast<long double>(x) * 0x1p52L;
    CERTCAL_REQUIRE(fixed_floor(x) == static_cast<int64_t>(std::floor(scaled)));
    CERTCAL_REQUIRE(fixed_ceil(x) == static_cast<int64_t>(std::ceil(scaled)));
    CERTCAL_REQUIRE(fixed_ceil(x) <= kOne);
  }
  CHECK(fixed_floor(1.0) == kOne);
  CHECK(fixed_ceil(0.0) == 0);
  CHECK(fixed_ceil(0x1p-1074) == 1);
}

TEST_CASE("the square is that of 128-bit integers, rounded up") {
  for (const int64_t q : fixed_points()) {
    const Wide square = static_cast<Wide>(q) * q;
    const Wide expected = (square + kOne - 1) / kOne;
    CERTCAL_REQUIRE(fixed_square_ceil(q) == static_cast<int64_t>(expected));
  }
}

TEST_CASE("the worst square is at least that of any confidence in the interval, by at most 2^-50") {
  Random random(7);
  for (int k = 0; k < 100000; ++k) {
    double lower = random.unit();
    double upper = k % 5 == 0 ? lower : random.unit();
    if (lower > upper) std::swap(lower, upper);
    for (int c = 0; c < 2; ++c) {
      const long double distance = c == 1 ? 1.0L - lower : static_cast<long double>(upper);
      const long double worst = static_cast<long double>(worst_square(c, lower, upper)) * 0x1p-52L;
      CERTCAL_REQUIRE(worst >= distance * distance);
      CERTCAL_REQUIRE(worst <= distance * distance + 0x1p-50L);
    }
  }
}

TEST_CASE("two words hold the sum, in any order and for as many rows as are allowed") {
  Random random(8);
  SplitSum forward{0, 0}, backward{0, 0}, repeated{0, 0};
  Wide exact = 0;
  std::vector<int64_t> terms;
  for (int k = 0; k < 10000; ++k) terms.push_back(random.below(kOne + 1));
  for (const int64_t q : terms) {
    forward.add(q);
    exact += q;
  }
  for (auto q = terms.rbegin(); q != terms.rend(); ++q) backward.add(*q);
  CHECK(forward.high == backward.high);
  CHECK(forward.low == backward.low);
  CHECK((static_cast<Wide>(forward.high) << kLowBits) + forward.low == exact);

  for (const int64_t q : {kOne, kOne - 1, kLowMask}) {
    SplitSum most{0, 0};
    most.add(q, kMaxRows);
    CHECK(most.high >= 0);
    CHECK(most.low >= 0);
    CHECK((static_cast<Wide>(most.high) << kLowBits) + most.low == static_cast<Wide>(q) * kMaxRows);
  }

  for (int k = 0; k < 7; ++k) repeated.add(terms[0]);
  SplitSum times{0, 0};
  times.add(terms[0], 7);
  CHECK(times.high == repeated.high);
  CHECK(times.low == repeated.low);
}
