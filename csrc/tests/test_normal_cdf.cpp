// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../core/normal_cdf.hpp"
#include "../cpu/cdf_table.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// erfc of a long double has 64 bits: an error far below the slack of 2^-48.
long double phi(double x) {
  return 0.5L * std::erfc(-static_cast<long double>(x) * std::sqrt(0.5L));
}

// Every 1/4096 from -9 to 9, both sides of every change of table row, and random points.
std::vector<double> arguments() {
  std::vector<double> points;
  for (int k = -9 * 4096; k <= 9 * 4096; ++k) points.push_back(k / 4096.0);
  for (int row = -136; row <= 136; ++row) {
    const double change = (row + 0.5) / kCdfStepsPerUnit;
    for (const double x : {change, row / 16.0}) {
      points.push_back(std::nextafter(x, -kInfinity));
      points.push_back(std::nextafter(x, kInfinity));
    }
  }
  Random random(4);
  for (int k = 0; k < 200000; ++k) points.push_back(random.between(-9.0, 9.0));
  for (int k = 0; k < 2000; ++k) points.push_back(std::ldexp(random.between(-1.0, 1.0), -k / 2));
  return points;
}

}  // namespace

TEST_CASE("the table gives Phi to half the slack, and its bounds lie outward of Phi, everywhere") {
  long double worst = 0;
  for (const double x : arguments()) {
    const long double exact = phi(x);
    const double below = normal_cdf_below(x, kNormalCdfTable);
    const double above = normal_cdf_above(x, kNormalCdfTable);
    CERTCAL_REQUIRE(below <= exact);
    CERTCAL_REQUIRE(above >= exact);
    CERTCAL_REQUIRE(below >= 0.0);
    CERTCAL_REQUIRE(above <= 1.0);
    CERTCAL_REQUIRE(exact - below <= 1.5 * kCdfSlack);
    CERTCAL_REQUIRE(above - exact <= 1.5 * kCdfSlack);
    if (std::fabs(x) <= kCdfLimit) {
      worst = std::fmax(worst, std::fabs(normal_cdf(x, kNormalCdfTable) - exact));
    }
  }
  MESSAGE("largest error of the table: 2^", std::log2(static_cast<double>(worst)));
  CHECK(worst <= kCdfSlack / 2);
  CHECK(worst > 0.0L);
}

TEST_CASE("both ends of the table, beyond them, and the infinities") {
  for (const double x : {8.5, -8.5}) {
    CHECK(normal_cdf_below(x, kNormalCdfTable) <= phi(x));
    CHECK(normal_cdf_above(x, kNormalCdfTable) >= phi(x));
  }
  for (const double x : {8.5000001, 9.0, 40.0, 1e300, kInfinity}) {
    CHECK(normal_cdf_above(x, kNormalCdfTable) == 1.0);
    CHECK(normal_cdf_below(x, kNormalCdfTable) <= 1.0 - kCdfSlack / 2);
    CHECK(normal_cdf_below(x, kNormalCdfTable) >= 1.0 - 1.5 * kCdfSlack);
    CHECK(normal_cdf_below(-x, kNormalCdfTable) == 0.0);
    CHECK(normal_cdf_above(-x, kNormalCdfTable) >= kCdfSlack / 2);
    CHECK(normal_cdf_above(-x, kNormalCdfTable) <= 1.5 * kCdfSlack);
  }
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(normal_cdf_below(nan, kNormalCdfTable) == 0.0);
  CHECK(normal_cdf_above(nan, kNormalCdfTable) == 1.0);
  CHECK(normal_cdf_below(0.0, kNormalCdfTable) == 0.5 - kCdfSlack);
  CHECK(normal_cdf_above(-0.0, kNormalCdfTable) == 0.5 + kCdfSlack);
}
