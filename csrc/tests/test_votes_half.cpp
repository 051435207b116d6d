// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../core/half.hpp"
#include "../core/packed.hpp"
#include "../core/votes.hpp"
#include "../cpu/votes.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

// The value of a half-precision number by its definition: sign, exponent, fraction.
double value_of(uint16_t bits, int exponent_bits, int fraction_bits) {
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

template <class Half>
std::vector<Half> rounded(const std::vector<float>& values) {
  std::vector<Half> out(values.size());
  for (size_t k = 0; k < values.size(); ++k) round_to(values[k], out[k]);
  return out;
}

template <class Half>
std::vector<float> wide(const std::vector<Half>& values) {
  std::vector<float> out;
  for (const Half x : values) out.push_back(widened(x));
  return out;
}

}  // namespace

TEST_CASE("widening half precision is exact for every number") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto word = static_cast<uint16_t>(bits);
    const double ieee = value_of(word, 5, 10), brain = value_of(word, 8, 7);
    const double got_ieee = static_cast<double>(widened(Float16{word}));
    const double got_brain = static_cast<double>(widened(BFloat16{word}));
    REQUIRE((std::isnan(ieee) ? std::isnan(got_ieee) : got_ieee == ieee));
    REQUIRE((std::isnan(brain) ? std::isnan(got_brain) : got_brain == brain));
    REQUIRE((std::isnan(ieee) || std::signbit(got_ieee) == std::signbit(ieee)));
  }
}

TEST_CASE_TEMPLATE("half-precision logits count as their float32 values", Half, Float16, BFloat16) {
  Random random(51);
  for (const int64_t classes : {1, 2, 10, 64, 65, 129, 1000}) {
    CAPTURE(classes);
    const int64_t batch = 3, draws = 131, bins = 100;
    std::vector<float> values;
    for (int64_t k = 0; k < batch * draws * classes; ++k) {
      values.push_back(static_cast<float>(random.below(4000)) / 400);
    }
    values[5] = std::numeric_limits<float>::quiet_NaN();
    values.back() = std::numeric_limits<float>::infinity();
    const std::vector<Half> logits = rounded<Half>(values);
    const std::vector<float> same = wide(logits);
    const std::vector<int64_t> chosen = {0, classes - 1, classes / 2};
    struct Words {
      std::vector<int64_t> counts, histogram, sums, faults;
      std::vector<uint8_t> near_ties;
    };
    const Words zero{std::vector<int64_t>(static_cast<size_t>(batch * classes)),
                     std::vector<int64_t>(static_cast<size_t>(batch * bins)),
                     std::vector<int64_t>(static_cast<size_t>(batch * 2)),
                     {0, 0},
                     std::vector<uint8_t>(static_cast<size_t>(batch * draws))};
    const std::vector<double> margins(static_cast<size_t>(batch), 0.02);
    const auto counted = [&](const auto* data, int threads, SimdPath path) {
      Words out = zero;
      count_votes_and_scores_cpu(data, chosen.data(), batch, draws, classes, bins, margins.data(),
                                 out.counts.data(), out.near_ties.data(), out.histogram.data(),
                                 out.sums.data(), out.faults.data(), threads, path);
      Words votes = zero;
      count_votes_cpu(data, batch, draws, classes, margins.data(), votes.counts.data(),
                      votes.near_ties.data(), votes.faults.data(), threads, path);
      REQUIRE(votes.counts == out.counts);
      REQUIRE(votes.near_ties == out.near_ties);
      return out;
    };
    const Words expected = counted(same.data(), 1, SimdPath::kScalar);
    CHECK(expected.faults == std::vector<int64_t>{1, 1});
    for (const SimdPath path : available_simd_paths()) {
      for (const int threads : {1, 3}) {
        const Words got = counted(logits.data(), threads, path);
        CHECK(got.counts == expected.counts);
        CHECK(got.near_ties == expected.near_ties);
        CHECK(got.histogram == expected.histogram);
        CHECK(got.sums == expected.sums);
        CHECK(got.faults == expected.faults);
      }
    }
  }
}

TEST_CASE_TEMPLATE("words of two halves compare as their values do", Half, Float16, BFloat16) {
  Random random(41);
  for (int trial = 0; trial < 200000; ++trial) {
    const uint32_t a = random.word(), b = random.word();
    const uint32_t most = larger(a, b, Half{}), least = smaller(a, b, Half{});
    const uint32_t sum = times_zero(a, 0, Half{});
    bool finite = true;
    for (int place = 0; place < 2; ++place) {
      const float x = value_at(a, place, Half{}), y = value_at(b, place, Half{});
      const uint16_t bits = static_cast<uint16_t>(place == 0 ? a : a >> 16);
      const float same = widened(Half{bits});
      CERTCAL_REQUIRE((x == same || (x != x && same != same)));
      finite = finite && is_finite(x);
      if (x != x || y != y) continue;
      CERTCAL_REQUIRE(value_at(most, place, Half{}) == std::max(x, y));
      CERTCAL_REQUIRE(value_at(least, place, Half{}) == std::min(x, y));
    }
    CERTCAL_REQUIRE(seen_infinite(sum, Half{}) == !finite);
    CERTCAL_REQUIRE(seen_infinite(times_zero(0, sum, Half{}), Half{}) == !finite);
  }
}

TEST_CASE("whole numbers in the order of floats") {
  Random random(42);
  for (int trial = 0; trial < 200000; ++trial) {
    const float x = float_of(random.word()), y = float_of(random.word());
    if (x != x || y != y) continue;
    CERTCAL_REQUIRE(bits_of(from_ordered(ordered(x))) == bits_of(x));
    if (x < y) CERTCAL_REQUIRE(ordered(x) < ordered(y));
    CERTCAL_REQUIRE(seen_infinite(times_zero(bits_of(x), 0, 0.0f), 0.0f) == !is_finite(x));
  }
  CHECK(ordered(-0.0f) < ordered(0.0f));
}
