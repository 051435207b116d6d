// SPDX-License-Identifier: MIT
// Random inputs of the fused bound and room for its outputs, for the CPU and for the CUDA kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/certify.hpp"
#include "../core/ece_table.hpp"
#include "support.hpp"

namespace certcal_tests {

struct CertifyCase {
  std::vector<int64_t> group;
  std::vector<uint8_t> correct;
  std::vector<double> confidence, probit_lower, probit_upper, shifts, edges;
  bool closed_left;

  int64_t samples() const { return static_cast<int64_t>(group.size()); }
  int64_t groups() const { return static_cast<int64_t>(confidence.size()); }
  int64_t radii() const { return static_cast<int64_t>(shifts.size()); }
  certcal::Bins bins() const {
    const int count = static_cast<int>(edges.size()) - 1;
    return {edges.data(), count, closed_left, certcal::edges_are_uniform(edges.data(), count)};
  }
};

// Outputs are added to, so they do not start from zero.
struct CertifyOutput {
  std::vector<int64_t> tables, clean, brier;

  explicit CertifyOutput(const CertifyCase& c) {
    const size_t radii = c.shifts.size();
    const size_t bins = c.edges.size() - 1;
    tables.assign(radii * static_cast<size_t>(certcal::table_words(static_cast<int>(bins))), 2);
    clean.assign(radii * bins * certcal::kCleanWords, 3);
    brier.assign(radii * certcal::kBrierWords, 4);
  }
  bool operator==(const CertifyOutput& o) const {
    return tables == o.tables && clean == o.clean && brier == o.brier;
  }
};

// Some groups are not certified at any radius, one lies beyond the table of Phi, some hold no sample; the first holds
// half of all samples.
inline CertifyCase random_certify_case(int64_t samples, int64_t groups, int64_t radii, int bins,
                                       bool closed_left) {
  Random random(static_cast<uint64_t>(samples * 1000 + groups * 10 + radii + bins));
  CertifyCase c;
  c.closed_left = closed_left;
  for (int64_t g = 0; g < groups; ++g) {
    const double lower = g == 3 ? 12.0 : random.between(-1.0, 4.0);
    c.probit_lower.push_back(g == 4 ? 0.0 : lower);
    c.probit_upper.push_back(c.probit_lower.back() + random.between(0.0, 1.0));
    c.confidence.push_back(g % 5 == 0 ? static_cast<double>(random.below(bins + 1)) / bins
                                      : random.unit());
  }
  for (int64_t n = 0; n < samples; ++n) {
    c.group.push_back(random.below(2) == 0 ? 0 : random.below(groups));
    c.correct.push_back(static_cast<uint8_t>(random.below(3)));  // any value but 0 is right
  }
  for (int64_t r = 0; r < radii; ++r) {
    c.shifts.push_back(r == 0 ? 0.0 : 2.5 * static_cast<double>(r) / static_cast<double>(radii));
  }
  if (bins == 2) {
    c.edges = {0.0, 0.7, 1.0};
  } else {
    c.edges = equal_width_edges(bins);
  }
  return c;
}

}  // namespace certcal_tests
