// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "../core/normal.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

// The words where the transform changes its branch or loses bits: all powers of two and multiples of sqrt(1/2), both
// ends, and a step on either side; then random ones.
std::vector<uint32_t> radius_words(int random_words) {
  std::vector<uint32_t> words;
  for (int k = 0; k < 32; ++k) {
    for (int step = -3; step <= 3; ++step) {
      words.push_back((uint32_t{1} << k) + static_cast<uint32_t>(step));
      words.push_back(static_cast<uint32_t>(std::ldexp(std::sqrt(0.5), k + 1)) +
                      static_cast<uint32_t>(step));
    }
  }
  for (uint32_t step = 0; step < 600; ++step) {
    words.push_back(step);
    words.push_back(0xFFFFFFFFu - step);
  }
  Random random(2);
  for (int k = 0; k < random_words; ++k) words.push_back(random.word());
  return words;
}

std::vector<uint32_t> angle_words(int random_words) {
  std::vector<uint32_t> words;
  for (uint32_t eighth = 0; eighth < 8; ++eighth) {
    for (uint32_t step = 0; step < 7; ++step) words.push_back((eighth << 29) + step - 3);
  }
  Random random(3);
  for (int k = 0; k < random_words; ++k) words.push_back(random.word());
  return words;
}

float uniform_of(uint32_t w) { return std::fma(static_cast<float>(w), 0x1p-32f, 0x1p-33f); }

// The angle that a word stands for, in units of 2^-32 turns: the quarter turn next to it plus an odd distance.
int64_t angle_units(uint32_t w) {
  const uint32_t quadrant = (w + (1u << 29)) >> 30;
  const int64_t offset = static_cast<int32_t>((w - (quadrant << 30)) | 1u);
  return static_cast<int64_t>(quadrant & 3u) * (int64_t{1} << 30) + offset;
}

long double relative_error(float x, long double expected) {
  return std::fabs((static_cast<long double>(x) - expected) / expected);
}

// Angle word 0 is half a step from an axis, where the cosine rounds to 1.
float radius_of(uint32_t w) { return normal_pair<float>(w, uint32_t{0}).first; }

bool same(float a, float b) { return bits_of(a) == bits_of(b); }

}  // namespace

TEST_CASE(
    "the float uniform is the word's to half a unit in the last place of each of its two "
    "roundings") {
  for (const uint32_t w : radius_words(1000000)) {
    const long double exact = (static_cast<long double>(w) + 0.5L) * 0x1p-32L;
    CERTCAL_REQUIRE(relative_error(uniform_of(w), exact) <= 0x1p-23L);
  }
}

// Tolerance: the polynomial of the logarithm is within 2^-24 relative, each of its last three operations, the product
// with -2 and the root add at most half a unit in the last place (2^-24), and the root halves what comes before it.
TEST_CASE("the radius is sqrt(-2 log u) to 2^-22 relative") {
  long double worst = 0;
  for (const uint32_t w : radius_words(1000000)) {
    const float radius = radius_of(w);
    const long double u = uniform_of(w);
    if (u == 1.0L) {
      CERTCAL_REQUIRE(radius == 0.0f);
      continue;
    }
    worst = std::fmax(worst, relative_error(radius, std::sqrt(-2.0L * std::log(u))));
  }
  MESSAGE("largest relative error of the radius: 2^", std::log2(static_cast<double>(worst)));
  CHECK(worst <= 0x1p-22L);
  CHECK(worst > 0.0L);
}

// Tolerance: that of the radius, then sine and cosine (polynomial 2^-25, three roundings) and one product.
TEST_CASE("both normals are the Box-Muller transform of the same uniforms to 2^-21 relative") {
  const long double turn = 2.0L * std::acos(-1.0L) * 0x1p-32L;
  const std::vector<uint32_t> angles = angle_words(1000);
  long double worst = 0;
  for (const uint32_t w : radius_words(1000)) {
    const long double u = uniform_of(w);
    if (u == 1.0L) continue;
    const long double radius = std::sqrt(-2.0L * std::log(u));
    for (const uint32_t angle_word : angles) {
      const long double units = static_cast<long double>(angle_units(angle_word));
      const NormalPair<float> z = normal_pair<float>(w, angle_word);
      worst = std::fmax(worst, relative_error(z.first, radius * std::cos(turn * units)));
      worst = std::fmax(worst, relative_error(z.second, radius * std::sin(turn * units)));
    }
  }
  MESSAGE("largest relative error of a normal: 2^", std::log2(static_cast<double>(worst)));
  CHECK(worst <= 0x1p-21L);
  CHECK(worst > 0.0L);
}

TEST_CASE("the extremes: the smallest word gives the largest radius, the largest words give none") {
  CHECK(radius_of(uint32_t{0}) == doctest::Approx(std::sqrt(66.0 * std::log(2.0))));
  CHECK(radius_of(uint32_t{0xFFFFFFFFu}) == 0.0f);
  CHECK(radius_of(uint32_t{0xFFFFFF80u}) == 0.0f);
  CHECK(radius_of(uint32_t{0xFFFFFF00u}) > 0.0f);
  const float largest = radius_of(uint32_t{0});
  CHECK(largest < 6.77f);
  for (const uint32_t w : radius_words(2000000)) {
    const float radius = radius_of(w);
    CERTCAL_REQUIRE(radius >= 0.0f);  // which NaN is not
    CERTCAL_REQUIRE(radius <= largest);
  }
  for (const uint32_t w : {0u, 1u, 12345u, 0xFFFFFFFFu}) {
    for (const uint32_t angle_word : angle_words(10000)) {
      const NormalPair<float> z = normal_pair<float>(w, angle_word);
      CERTCAL_REQUIRE(std::fabs(z.first) <= largest);
      CERTCAL_REQUIRE(std::fabs(z.second) <= largest);
    }
  }
}

// Each map below takes the odd angles onto themselves, one to one, so the law of a pair has these symmetries exactly.
TEST_CASE("the pair is symmetric, bit for bit, under both signs and under exchange") {
  for (const uint32_t w : {0u, 1u, 77u, 0x12345678u, 0x80000000u, 0xDEADBEEFu, 0xFFFF0000u}) {
    for (const uint32_t angle_word : angle_words(20000)) {
      const uint32_t odd = static_cast<uint32_t>(angle_units(angle_word));
      CERTCAL_REQUIRE((odd & 1u) == 1u);
      const NormalPair<float> z = normal_pair<float>(w, odd);
      const NormalPair<float> given = normal_pair<float>(w, angle_word);
      CERTCAL_REQUIRE((same(z.first, given.first) && same(z.second, given.second)));
      const NormalPair<float> negative_sine = normal_pair<float>(w, 0u - odd);
      CERTCAL_REQUIRE(
          (same(negative_sine.first, z.first) && same(negative_sine.second, -z.second)));
      const NormalPair<float> opposite = normal_pair<float>(w, odd + (1u << 31));
      CERTCAL_REQUIRE((same(opposite.first, -z.first) && same(opposite.second, -z.second)));
      const NormalPair<float> exchanged = normal_pair<float>(w, (1u << 30) - odd);
      CERTCAL_REQUIRE((same(exchanged.first, z.second) && same(exchanged.second, z.first)));
    }
  }
}

// 2^22 seeded draws. Each of the four statistics is held to 5 standard errors: a false alarm for one seed in 4 * 10^5.
TEST_CASE("the first four moments of the normals") {
  const uint32_t blocks = 1u << 20;
  const double n = 4.0 * blocks;
  double sums[4] = {0, 0, 0, 0};
  for (uint32_t block = 0; block < blocks; ++block) {
    const NormalBlock<float> normals = normal_block<float>(block, 3u, 5u, PhiloxKey::of(7u));
    for (const float z : {normals.z0, normals.z1, normals.z2, normals.z3}) {
      double power = z;
      for (double& sum : sums) {
        sum += power;
        power *= z;
      }
    }
  }
  CHECK(std::fabs(sums[0] / n) < 5.0 * std::sqrt(1.0 / n));
  CHECK(std::fabs(sums[1] / n - 1.0) < 5.0 * std::sqrt(2.0 / n));
  CHECK(std::fabs(sums[2] / n) < 5.0 * std::sqrt(15.0 / n));
  CHECK(std::fabs(sums[3] / n - 3.0) < 5.0 * std::sqrt(96.0 / n));
}

// Whole binades: the step is the same in all others.
TEST_CASE("one step from the rounded reciprocal gives the rounded square root") {
  for (uint32_t bits = bits_of(1.0f); bits < bits_of(4.0f); ++bits) {
    const float x = float_of(bits);
    const float seed = static_cast<float>(1.0 / std::sqrt(static_cast<double>(x)));
    CERTCAL_REQUIRE(square_root_from(x, seed) == std::sqrt(x));
  }
  CHECK(square_root_from(0.0f, 1.0f / std::sqrt(kLeastSquare)) == 0.0f);
}

TEST_CASE("every radius is one that the square root without a branch is for") {
  float least = 1.0f;
  for (uint32_t w : {0u, 1u, 2u, 0x7FFFFFFFu, 0x80000000u, 0xFFFFFF00u, 0xFFFFFFFFu}) {
    for (uint32_t below = 0; below < 1000; ++below) {
      const float radius = normal_pair<float>(w - below, 0u).first;  // angle 0: cosine 1
      const float square = radius * radius;
      CERTCAL_REQUIRE((square == 0.0f || (square >= kLeastSquare && square < 100.0f)));
      if (square > 0.0f) least = std::min(least, square);
    }
  }
  CHECK(least < 0x1p-20f);
  CHECK(least > 1024 * kLeastSquare);
}
