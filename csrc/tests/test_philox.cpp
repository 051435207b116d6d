// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <set>

#include "../core/normal.hpp"
#include "../core/philox.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;

namespace {

using Words = std::array<uint32_t, 4>;

Words philox(const Words& counter, uint32_t key0, uint32_t key1) {
  const auto out = philox4x32_10(
      PhiloxBlock<uint32_t>{counter[0], counter[1], counter[2], counter[3]}, PhiloxKey{key0, key1});
  return {out.w0, out.w1, out.w2, out.w3};
}

}  // namespace

// Random123 1.14.0, tests/kat_vectors, the three lines "philox4x32 10" (D. E. Shaw Research).
TEST_CASE("philox4x32-10 gives the published known answers") {
  CHECK(philox({0, 0, 0, 0}, 0, 0) == Words{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(philox({0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}, 0xffffffffu, 0xffffffffu) ==
        Words{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0xa4093822u, 0x299f31d0u) ==
        Words{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE(
    "a block is a function of counter and key, and different counters give different blocks") {
  std::set<Words> blocks;
  for (uint32_t position = 0; position < 4; ++position) {
    for (uint32_t value = 1; value <= 4096; ++value) {
      Words counter{0, 0, 0, 0};
      counter[position] = value;
      blocks.insert(philox(counter, 7, 9));
    }
  }
  CHECK(blocks.size() == 4 * 4096);
}

TEST_CASE("the normals of an element come from counter (block, draw, sample id) and key seed") {
  Random random(1);
  for (int trial = 0; trial < 1000; ++trial) {
    const uint32_t block = random.word();
    const uint32_t draw = random.word();
    const uint64_t sample_id = random.next();
    const uint64_t seed = random.next();
    const NormalBlock<float> z = normal_block<float>(block, draw, sample_id, PhiloxKey::of(seed));
    const Words w = philox(
        {block, draw, static_cast<uint32_t>(sample_id), static_cast<uint32_t>(sample_id >> 32)},
        static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    const NormalBlock<float> keyed =
        normal_block<float>(block, draw, sample_id, PhiloxRoundKeys(PhiloxKey::of(seed)));
    CERTCAL_REQUIRE(bits_of(keyed.z0) == bits_of(z.z0));
    CERTCAL_REQUIRE(bits_of(keyed.z3) == bits_of(z.z3));
    const NormalPair<float> a = normal_pair<float>(w[0], w[1]);
    const NormalPair<float> b = normal_pair<float>(w[2], w[3]);
    CERTCAL_REQUIRE(bits_of(z.z0) == bits_of(a.first));
    CERTCAL_REQUIRE(bits_of(z.z1) == bits_of(a.second));
    CERTCAL_REQUIRE(bits_of(z.z2) == bits_of(b.first));
    CERTCAL_REQUIRE(bits_of(z.z3) == bits_of(b.second));
  }
}
