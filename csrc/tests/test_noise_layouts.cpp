// SPDX-License-Identifier: MIT
// add_noise in half precision and with interleaved channels, against the float32 rows of test_noise.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../core/half.hpp"
#include "../cpu/noise.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;
using certcal_tests::same_bits;

namespace {

// The nearest of all finite values of a format with so many exponent and mantissa bits, and infinity, by its definition.
uint16_t nearest(float x, int mantissa_bits, int lowest_exponent, float first_beyond) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(x));
  const int infinity = (0x7FFF >> mantissa_bits) << mantissa_bits;
  if (magnitude >= static_cast<double>(first_beyond)) return static_cast<uint16_t>(sign | infinity);
  int exponent = lowest_exponent;
  if (magnitude > 0) exponent = std::max(std::ilogb(magnitude), lowest_exponent);
  const double steps = std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent));
  const int code = ((exponent - lowest_exponent) << mantissa_bits) + static_cast<int>(steps);
  return static_cast<uint16_t>(sign | code);
}

uint16_t reference(float x, Float16) { return nearest(x, 10, -14, 65520.0f); }
uint16_t reference(float x, BFloat16) { return nearest(x, 7, -126, 0x1.FFp+127f); }

template <class Half>
uint16_t rounded(float x) {
  Half half;
  round_to(x, half);
  return half.bits;
}

// Values of every exponent: ties, what lies just beside them, and the ends of the ranges.
std::vector<float> telling_values() {
  std::vector<float> values;
  Random random(50);
  for (uint32_t upper = 0; upper < 0x7F80; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      values.push_back(float_of(upper << 16 | lower));
    }
    for (const uint32_t lower : {0x0FFFu, 0x1000u, 0x1001u, 0x3000u}) {
      values.push_back(-float_of(upper << 16 | lower));
    }
    values.push_back(float_of(upper << 16 | (random.word() & 0xFFFFu)));
  }
  values.push_back(std::numeric_limits<float>::infinity());
  values.push_back(-std::numeric_limits<float>::infinity());
  return values;
}

struct Case {
  int64_t batch, pixels, channels, draws;
  int64_t elements() const { return pixels * channels; }
};

const std::vector<Case> kCases = {
    {0, 4, 3, 2},    {2, 1, 1, 3},    {2, 1, 3, 3},    {1, 3, 2, 9},    {2, 5, 3, 1},
    {3, 31, 3, 4},   {2, 64, 3, 9},   {1, 65, 4, 17},  {2, 255, 3, 2},  {1, 257, 5, 3},
    {2, 1024, 3, 9}, {1, 1344, 3, 2}, {1, 1345, 3, 2}, {1, 4097, 2, 3}, {1, 9, 700, 2}};

template <class Value>
struct Noisy {
  static std::vector<Value> of(const Case& c, const std::vector<float>& images, int threads,
                               SimdPath path, bool interleaved, size_t shift = 0, int64_t first = 0,
                               int64_t draws = -1) {
    if (draws < 0) draws = c.draws;
    std::vector<int64_t> ids;
    for (int64_t b = 0; b < c.batch; ++b) ids.push_back((int64_t{3} << 33) + b);
    const size_t size = static_cast<size_t>(c.batch * draws * c.elements());
    const size_t guards = 33;
    Value guard;
    round_to(12345.0f, guard);
    std::vector<Value> out(size + shift + guards, guard);
    add_noise_cpu(images.data(), ids.data(), 0.37f, 99u, c.batch, c.elements(),
                  17u + static_cast<uint32_t>(first), draws, out.data() + shift, threads, path,
                  interleaved ? c.channels : 1);
    std::vector<Value> around(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(shift));
    const auto end = out.begin() + static_cast<std::ptrdiff_t>(shift + size);
    around.insert(around.end(), end, out.end());
    CHECK(same_bits(around, std::vector<Value>(shift + guards, guard)));
    return std::vector<Value>(out.begin() + static_cast<std::ptrdiff_t>(shift), end);
  }
};

// (lines, channels, pixels) to (lines, pixels, channels).
template <class T>
std::vector<T> interleave(const Case& c, const std::vector<T>& planar) {
  std::vector<T> out(planar.size());
  for (size_t k = 0; k < planar.size(); ++k) {
    const int64_t line = static_cast<int64_t>(k) / c.elements();
    const int64_t e = static_cast<int64_t>(k) % c.elements();
    const int64_t at = line * c.elements() + e % c.pixels * c.channels + e / c.pixels;
    out[static_cast<size_t>(at)] = planar[k];
  }
  return out;
}

std::vector<float> pixels_of(const Case& c) {
  Random random(static_cast<uint64_t>(c.elements()));
  std::vector<float> images(static_cast<size_t>(c.batch * c.elements()));
  for (size_t k = 0; k < images.size(); ++k) {
    images[k] = static_cast<float>(random.between(-1.0, 1.0));
    if (k % 7 == 0) images[k] *= 1e5f;  // beyond float16
    if (k % 11 == 0) images[k] = std::numeric_limits<float>::infinity();
  }
  return images;
}

}  // namespace

TEST_CASE_TEMPLATE("half precision is the nearest value, ties to even", Half, Float16, BFloat16) {
  for (const float x : telling_values()) {
    CERTCAL_REQUIRE(rounded<Half>(x) == reference(x, Half{}));
    CERTCAL_REQUIRE(rounded<Half>(-x) == (rounded<Half>(x) ^ 0x8000));
    CERTCAL_REQUIRE(rounded_pair(x, -2.0f, Half{}) ==
                    (static_cast<uint32_t>(rounded<Half>(-2.0f)) << 16 | rounded<Half>(x)));
  }
  const int infinity = reference(std::numeric_limits<float>::infinity(), Half{});
  for (const uint32_t nan : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFFFFFFFu}) {
    CHECK((rounded<Half>(float_of(nan)) & 0x7FFF) > infinity);
  }
}

TEST_CASE_TEMPLATE("every path rounds as round_to, infinities and NaN too", Half, Float16,
                   BFloat16) {
  std::vector<float> values = telling_values();
  for (const uint32_t nan : {0x7F800001u, 0x7FC12345u, 0xFFFFFFFFu})
    values.push_back(float_of(nan));
  std::vector<Half> expected(values.size());
  // Sigma 0 keeps all values but -0, which 0 * z may turn to 0, and signalling NaN, which every operation makes quiet.
  for (size_t k = 0; k < values.size(); ++k) {
    if (values[k] == 0.0f) values[k] = 1.0f;
    if (std::isnan(values[k])) values[k] = float_of(bits_of(values[k]) | 0x400000u);
    round_to(values[k], expected[k]);
  }
  const Case c = {1, static_cast<int64_t>(values.size()), 1, 1};
  const int64_t id = 0;
  for (const SimdPath path : available_simd_paths()) {
    CAPTURE(simd_path_name(path));
    std::vector<Half> out(values.size());
    add_noise_cpu(values.data(), &id, 0.0f, 1u, 1, c.elements(), 0u, 1, out.data(), 1, path);
    REQUIRE(same_bits(out, expected));
  }
}

TEST_CASE_TEMPLATE("each type and layout holds the float32 rows, rounded and in its order", Value,
                   float, Float16, BFloat16) {
  for (const Case& c : kCases) {
    CAPTURE(c.pixels);
    CAPTURE(c.channels);
    const std::vector<float> images = pixels_of(c);
    const std::vector<float> exact = Noisy<float>::of(c, images, 1, SimdPath::kScalar, false);
    std::vector<Value> expected(exact.size());
    for (size_t k = 0; k < exact.size(); ++k) round_to(exact[k], expected[k]);
    const std::vector<float> interleaved_images = interleave(c, images);
    const std::vector<Value> interleaved = interleave(c, expected);
    for (const SimdPath path : available_simd_paths()) {
      CAPTURE(simd_path_name(path));
      for (const int threads : {1, 3}) {
        for (const size_t shift : {size_t{0}, size_t{1}}) {
          REQUIRE(same_bits(Noisy<Value>::of(c, images, threads, path, false, shift), expected));
          REQUIRE(same_bits(Noisy<Value>::of(c, interleaved_images, threads, path, true, shift),
                            interleaved));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("draws of any type and layout may be taken in any pieces", Value, float, Float16,
                   BFloat16) {
  const Case c = {1, 257, 3, 11};
  const std::vector<float> images = pixels_of(c);
  for (const SimdPath path : available_simd_paths()) {
    for (const bool interleaved : {false, true}) {
      const auto whole = Noisy<Value>::of(c, images, 2, path, interleaved);
      for (int64_t cut = 0; cut <= c.draws; ++cut) {
        auto pieces = Noisy<Value>::of(c, images, 1, path, interleaved, 0, 0, cut);
        const auto rest = Noisy<Value>::of(c, images, 1, path, interleaved, 0, cut, c.draws - cut);
        pieces.insert(pieces.end(), rest.begin(), rest.end());
        REQUIRE(same_bits(pieces, whole));
      }
    }
  }
}
