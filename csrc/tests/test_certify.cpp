// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "../core/certify.hpp"
#include "../cpu/cdf_table.hpp"
#include "../cpu/certify.hpp"
#include "certify_cases.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::CertifyCase;
using certcal_tests::CertifyOutput;
using certcal_tests::Random;
using certcal_tests::random_certify_case;

namespace {

CertifyOutput certify(const CertifyCase& c, int threads) {
  CertifyOutput out(c);
  certify_cpu(c.group.data(), c.correct.data(), c.samples(), c.confidence.data(),
              c.probit_lower.data(), c.probit_upper.data(), c.groups(), c.shifts.data(), c.radii(),
              c.bins(), out.tables.data(), out.clean.data(), out.brier.data(), threads);
  return out;
}

void add_split(int64_t* words, int64_t q) {
  words[0] += q >> kLowBits;
  words[1] += q & kLowMask;
}

// One radius after the other, one sample after the other.
CertifyOutput reference(const CertifyCase& c) {
  CertifyOutput out(c);
  const Bins bins = c.bins();
  for (int64_t r = 0; r < c.radii(); ++r) {
    const double shift = c.shifts[static_cast<size_t>(r)];
    int64_t* table = out.tables.data() + r * table_words(bins.count);
    int64_t* clean = out.clean.data() + r * bins.count * kCleanWords;
    int64_t* brier = out.brier.data() + r * kBrierWords;
    for (size_t n = 0; n < c.group.size(); ++n) {
      const size_t g = static_cast<size_t>(c.group[n]);
      if (!(c.probit_lower[g] > shift)) continue;
      const int correct = c.correct[n] != 0 ? 1 : 0;
      const double lower = normal_cdf_below(c.probit_lower[g] - shift, kNormalCdfTable);
      const double upper = normal_cdf_above(c.probit_upper[g] + shift, kNormalCdfTable);
      const double z = c.confidence[g];
      int64_t* cell =
          table + cell_index(correct, bin_of(lower, bins), bin_of(upper, bins), bins.count);
      cell[kCount] += 1;
      add_split(cell + kLowerHigh, fixed_floor(lower));
      add_split(cell + kUpperHigh, fixed_ceil(upper));
      add_split(brier + kCertifiedHigh, worst_square(correct, lower, upper));
      add_split(brier + kCleanHigh, worst_square(correct, z, z));
      int64_t* bin = clean + bin_of(z, bins) * kCleanWords;
      bin[kSamples] += 1;
      bin[kRight] += correct;
      add_split(bin + kConfidenceHigh, fixed_floor(z));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("all radii at once are the loop over radii and samples, to the bit, for any threads") {
  for (const int64_t samples : {0, 1, 31, 32, 33, 255, 256, 257, 3001}) {
    for (const int64_t groups : {1, 7, 300}) {
      for (const int bins : {1, 2, 15, 40}) {
        CAPTURE(samples);
        CAPTURE(groups);
        CAPTURE(bins);
        const CertifyCase c = random_certify_case(samples, groups, 5, bins, bins % 2 == 0);
        const CertifyOutput expected = reference(c);
        for (const int threads : {1, 2, 5}) CHECK(certify(c, threads) == expected);
      }
    }
  }
}

TEST_CASE("samples and radii enough for several threads, and any order of the samples") {
  CertifyCase c = random_certify_case(400001, 101, 200, 15, false);
  const CertifyOutput expected = certify(c, 1);
  for (const int threads : {2, 3, 8}) CHECK(certify(c, threads) == expected);
  Random random(27);
  for (size_t n = c.group.size() - 1; n > 0; --n) {
    const size_t other = static_cast<size_t>(random.below(static_cast<int64_t>(n) + 1));
    std::swap(c.group[n], c.group[other]);
    std::swap(c.correct[n], c.correct[other]);
  }
  CHECK(certify(c, 2) == expected);
}

TEST_CASE("no radius or no sample adds nothing") {
  const CertifyCase no_radius = random_certify_case(10, 3, 0, 15, false);
  CHECK(certify(no_radius, 2).brier.empty());
  const CertifyCase no_sample = random_certify_case(0, 3, 4, 15, false);
  CHECK(certify(no_sample, 2) == CertifyOutput(no_sample));
}

TEST_CASE("a shifted interval holds that of exact arithmetic and grows with the shift") {
  Random random(28);
  const auto phi = [](long double x) { return 0.5L * std::erfc(-x * std::sqrt(0.5L)); };
  std::vector<double> probit_lower, probit_upper;
  for (int k = 0; k < 20000; ++k) {
    probit_lower.push_back(random.between(-4.0, 4.0));
    probit_upper.push_back(probit_lower.back() + random.between(0.0, 2.0));
  }
  const int64_t rows = static_cast<int64_t>(probit_lower.size());
  for (const double shift : {0.0, 0.1, 1.0, 3.7, 20.0}) {
    std::vector<double> lower(probit_lower.size()), upper(probit_lower.size());
    shift_interval_cpu(probit_lower.data(), probit_upper.data(), shift, rows, lower.data(),
                       upper.data(), 1);
    for (size_t k = 0; k < lower.size(); ++k) {
      // The shift itself is a rounded sum: the exact one is within half a unit, which the slack covers.
      const long double s = shift;
      CERTCAL_REQUIRE(lower[k] <= phi(probit_lower[k] - s));
      CERTCAL_REQUIRE(upper[k] >= phi(probit_upper[k] + s));
      CERTCAL_REQUIRE(phi(probit_lower[k] - s) - lower[k] <= 2 * kCdfSlack);
      CERTCAL_REQUIRE(upper[k] - phi(probit_upper[k] + s) <= 2 * kCdfSlack);
      CERTCAL_REQUIRE(0.0 <= lower[k] && lower[k] <= upper[k] && upper[k] <= 1.0);
    }
    std::vector<double> lower2(lower.size()), upper2(upper.size());
    shift_interval_cpu(probit_lower.data(), probit_upper.data(), shift, rows, lower2.data(),
                       upper2.data(), 4);
    CHECK(lower2 == lower);
    CHECK(upper2 == upper);
  }
}
