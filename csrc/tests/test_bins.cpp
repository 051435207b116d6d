// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/ece_table.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::equal_width_edges;
using certcal_tests::Random;

namespace {

// The definition: bin m is (e_m, e_{m+1}], the first also holds 0; or [e_m, e_{m+1}), the last also holds 1.
int scan_for_bin(double x, const std::vector<double>& edges, bool closed_left) {
  const int count = static_cast<int>(edges.size()) - 1;
  for (int m = 0; m < count; ++m) {
    const double right = edges[static_cast<size_t>(m) + 1];
    if (closed_left ? x < right : x <= right) return m;
  }
  return count - 1;
}

// Every edge, both neighbours of it among the doubles, and random points.
std::vector<double> points_around(const std::vector<double>& edges) {
  std::vector<double> points;
  for (const double edge : edges) {
    for (const double x : {edge, std::nextafter(edge, 0.0), std::nextafter(edge, 1.0)}) {
      points.push_back(x);
    }
  }
  Random random(9);
  for (int k = 0; k < 300; ++k) points.push_back(random.unit());
  return points;
}

void check_edges(const std::vector<double>& edges, bool uniform) {
  CAPTURE(edges.size());
  for (const bool closed_left : {false, true}) {
    CAPTURE(closed_left);
    const Bins bins{edges.data(), static_cast<int>(edges.size()) - 1, closed_left, uniform};
    for (const double x : points_around(edges)) {
      CERTCAL_REQUIRE(bin_of(x, bins) == scan_for_bin(x, edges, closed_left));
    }
  }
}

std::vector<double> uneven_edges(int bins, Random& random) {
  std::vector<double> edges = {0.0, 1.0};
  while (static_cast<int>(edges.size()) <= bins) {
    // A third of the edges lie one double beside another one.
    const double other =
        edges[static_cast<size_t>(random.below(static_cast<int64_t>(edges.size())))];
    const double edge = random.below(3) == 0 ? std::nextafter(other, 1.0) : random.unit();
    if (std::find(edges.begin(), edges.end(), edge) == edges.end()) edges.push_back(edge);
  }
  std::sort(edges.begin(), edges.end());
  return edges;
}

}  // namespace

TEST_CASE(
    "equal bins: the guess and the search both agree with a scan of the edges, to the last bit") {
  std::vector<int> counts;
  for (int m = 1; m <= 130; ++m) counts.push_back(m);
  for (const int m : {255, 256, 257, 499, 500, 640, 777, 999, 1000}) counts.push_back(m);
  for (const int m : counts) {
    const std::vector<double> divided = equal_width_edges(m);
    // Other ways to write the same edges differ from these in the last bit.
    std::vector<double> multiplied(divided.size()), summed(divided.size());
    for (int k = 1; k <= m; ++k) {
      multiplied[static_cast<size_t>(k)] = k * (1.0 / m);
      summed[static_cast<size_t>(k)] = summed[static_cast<size_t>(k) - 1] + 1.0 / m;
    }
    multiplied.back() = summed.back() = 1.0;
    for (const auto& edges : {divided, multiplied, summed}) {
      REQUIRE(edges_are_uniform(edges.data(), m));
      check_edges(edges, true);
      check_edges(edges, false);
    }
  }
}

TEST_CASE("uneven bins: the search agrees with a scan of the edges") {
  Random random(10);
  for (const int m : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 100, 333}) {
    for (int trial = 0; trial < 5; ++trial) {
      const std::vector<double> edges = uneven_edges(m, random);
      if (m > 1) CHECK_FALSE(edges_are_uniform(edges.data(), m));
      check_edges(edges, false);
    }
  }
}

TEST_CASE("edges that are equal to rounding only count as equal") {
  std::vector<double> edges = equal_width_edges(15);
  CHECK(edges_are_uniform(edges.data(), 15));
  edges[7] += 1e-15;
  CHECK(edges_are_uniform(edges.data(), 15));
  edges[7] += 1e-9;
  CHECK_FALSE(edges_are_uniform(edges.data(), 15));
}
