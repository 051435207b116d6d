// SPDX-License-Identifier: MIT
// The vector loops over intervals give the bits of the scalar one.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../cpu/cdf_table.hpp"
#include "../cpu/shift_kernel.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;
using certcal_tests::same_bits;

namespace {

struct Ends {
  std::vector<double> lower, upper;
  explicit Ends(size_t rows) : lower(rows, -1.0), upper(rows, -1.0) {}
};

Ends shift(ShiftRows function, const std::vector<double>& a, const std::vector<double>& b,
           double by) {
  Ends ends(a.size());
  function(a.data(), b.data(), by, static_cast<int64_t>(a.size()), kNormalCdfTable,
           ends.lower.data(), ends.upper.data());
  return ends;
}

std::vector<ShiftRows> vector_paths() {
  std::vector<ShiftRows> functions;
#ifdef CERTCAL_X86
  for (const SimdPath path : available_simd_paths()) {
    functions.push_back(for_path(path, shift_rows_scalar, shift_rows_avx2, shift_rows_avx512));
  }
#else
  functions.push_back(shift_rows_scalar);
#endif
  return functions;
}

void check_paths(const std::vector<double>& a, const std::vector<double>& b) {
  for (const double by : {0.0, 0.1, 1.0, 3.7, 20.0}) {
    const Ends expected = shift(shift_rows_scalar, a, b, by);
    for (const ShiftRows function : vector_paths()) {
      const Ends found = shift(function, a, b, by);
      CHECK(same_bits(found.lower, expected.lower));
      CHECK(same_bits(found.upper, expected.upper));
    }
  }
}

}  // namespace

TEST_CASE("every SIMD path shifts sorted and unsorted rows to the same bits") {
  for (const int64_t rows : certcal_tests::kEdgeSizes) {
    Random random(static_cast<uint64_t>(rows) + 1);
    std::vector<double> a(static_cast<size_t>(rows)), b(a.size());
    for (size_t n = 0; n < a.size(); ++n) {
      a[n] = random.between(-9.5, 9.5);
      b[n] = a[n] + random.unit();
    }
    check_paths(a, b);
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    check_paths(a, b);
  }
}

TEST_CASE("every SIMD path treats limits, infinities and NaN alike") {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> special = {-inf, inf,  nan,   -8.5,   8.5,     -8.5000001, 8.5000001,
                                       0.0,  -0.0, 1e300, -1e300, 0.03125, -0.03125};
  for (const double x : special) {
    check_paths(std::vector<double>(16, x), std::vector<double>(16, x));
  }
  std::vector<double> mixed;
  for (int copy = 0; copy < 3; ++copy) mixed.insert(mixed.end(), special.begin(), special.end());
  check_paths(mixed, mixed);
}
