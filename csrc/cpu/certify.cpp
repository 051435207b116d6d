// SPDX-License-Identifier: MIT
#include "certify.hpp"

#include <vector>

#include "../core/certify.hpp"
#include "cdf_table.hpp"
#include "parallel.hpp"

namespace certcal {
namespace {

constexpr int64_t kGrainSamples = 1 << 17;
constexpr int64_t kGrainRows = 1 << 14;

// What is the same for a group at every radius.
struct Group {
  double probit_lower, probit_upper;
  int64_t count[2];       // wrong, right
  int64_t confidence;     // fixed point
  int64_t clean_square[2];
  int clean_bin;
};

std::vector<int64_t> count_groups(const int64_t* group, const uint8_t* correct, int64_t samples,
                                  int64_t groups, int threads) {
  std::vector<int64_t> counts(static_cast<size_t>(2 * groups), 0);
  // A private copy per thread pays only while it is small beside the thread's share of the samples.
  const int used = groups * 8 < samples ? threads : 1;
  parallel_for(samples, kGrainSamples, used, [&](int64_t first, int64_t last) {
    if (used == 1) {
      for (int64_t n = first; n < last; ++n) ++counts[static_cast<size_t>(2 * group[n] + (correct[n] != 0))];
      return;
    }
    std::vector<int64_t> local(counts.size(), 0);
    for (int64_t n = first; n < last; ++n) ++local[static_cast<size_t>(2 * group[n] + (correct[n] != 0))];
    for (size_t g = 0; g < local.size(); ++g) atomic_add(counts[g], local[g]);
  });
  return counts;
}

std::vector<Group> occupied_groups(const std::vector<int64_t>& counts, const double* confidence,
                                   const double* probit_lower, const double* probit_upper,
                                   int64_t groups, const Bins& bins) {
  std::vector<Group> occupied;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t wrong = counts[static_cast<size_t>(2 * g)];
    const int64_t right = counts[static_cast<size_t>(2 * g + 1)];
    if (wrong + right == 0 || !prediction_is_certified(probit_lower[g], 0.0)) continue;
    const double z = confidence[g];
    occupied.push_back({probit_lower[g],
                        probit_upper[g],
                        {wrong, right},
                        fixed_floor(z),
                        {worst_square(0, z, z), worst_square(1, z, z)},
                        bin_of(z, bins)});
  }
  return occupied;
}

struct RadiusOutput {
  int64_t* table;
  int64_t* clean;
  int64_t* brier;
};

void add_words(int64_t* words, int64_t q, int64_t times) {
  words[0] += (q >> kLowBits) * times;
  words[1] += (q & kLowMask) * times;
}

void certify_radius(const std::vector<Group>& groups, double shift, const Bins& bins,
                    const RadiusOutput& out) {
  for (const Group& g : groups) {
    if (!prediction_is_certified(g.probit_lower, shift)) continue;
    const Interval z = shift_interval(g.probit_lower, g.probit_upper, shift, kNormalCdfTable);
    const int a = bin_of(z.lower, bins);
    const int b = bin_of(z.upper, bins);
    const int64_t lower = fixed_floor(z.lower);
    const int64_t upper = fixed_ceil(z.upper);
    for (int c = 0; c < 2; ++c) {
      const int64_t times = g.count[c];
      if (times == 0) continue;
      int64_t* cell = out.table + cell_index(c, a, b, bins.count);
      cell[kCount] += times;
      add_words(cell + kLowerHigh, lower, times);
      add_words(cell + kUpperHigh, upper, times);
      add_words(out.brier + kCertifiedHigh, worst_square(c, z.lower, z.upper), times);
      add_words(out.brier + kCleanHigh, g.clean_square[c], times);
      int64_t* bin = out.clean + g.clean_bin * kCleanWords;
      bin[kSamples] += times;
      bin[kRight] += c * times;
      add_words(bin + kConfidenceHigh, g.confidence, times);
    }
  }
}

}  // namespace

void certify_cpu(const int64_t* group, const uint8_t* correct, int64_t samples,
                 const double* confidence, const double* probit_lower, const double* probit_upper,
                 int64_t groups, const double* shifts, int64_t radii, const Bins& bins,
                 int64_t* tables, int64_t* clean, int64_t* brier, int threads) {
  const std::vector<Group> occupied =
      occupied_groups(count_groups(group, correct, samples, groups, threads), confidence,
                      probit_lower, probit_upper, groups, bins);
  const int64_t grain =
      std::max<int64_t>(1, kGrainRows / (static_cast<int64_t>(occupied.size()) + 1));
  parallel_for(radii, grain, threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      certify_radius(occupied, shifts[r], bins,
                     {tables + r * table_words(bins.count), clean + r * bins.count * kCleanWords,
                      brier + r * kBrierWords});
    }
  });
}

void shift_interval_cpu(const double* probit_lower, const double* probit_upper, double shift,
                        int64_t rows, double* lower, double* upper, int threads) {
  parallel_for(rows, kGrainRows, threads, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      const Interval z = shift_interval(probit_lower[n], probit_upper[n], shift, kNormalCdfTable);
      lower[n] = z.lower;
      upper[n] = z.upper;
    }
  });
}

}  // namespace certcal
