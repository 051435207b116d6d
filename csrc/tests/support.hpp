// SPDX-License-Identifier: MIT
// What the tests share: a seeded generator that is not the one under test, and the sizes where loops tend to be wrong.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

// REQUIRE for loops of millions: doctest is only called where it fails.
#define CERTCAL_REQUIRE(...)                \
  do {                                      \
    if (!(__VA_ARGS__)) FAIL(#__VA_ARGS__); \
  } while (false)

namespace certcal_tests {

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint32_t word() { return static_cast<uint32_t>(next() >> 32); }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double between(double low, double high) { return low + (high - low) * unit(); }

 private:
  uint64_t state_;
};

inline const std::vector<int64_t> kEdgeSizes = {0,  1,  3,   4,   5,   31,   32,   33,  63,
                                                64, 65, 255, 256, 257, 4095, 4096, 4097};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline std::vector<double> equal_width_edges(int bins) {
  std::vector<double> edges(static_cast<size_t>(bins) + 1);
  for (int m = 0; m <= bins; ++m) edges[static_cast<size_t>(m)] = static_cast<double>(m) / bins;
  return edges;
}

}  // namespace certcal_tests
