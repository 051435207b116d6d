// SPDX-License-Identifier: MIT
#include "certify.hpp"

#include <algorithm>
#include <vector>

#include "../core/certify.hpp"
#include "../core/ece_solve.hpp"
#include "../core/wide_int.hpp"
#include "cdf_table.hpp"
#include "parallel.hpp"
#include "shift_kernel.hpp"

namespace certcal {
namespace {

constexpr int64_t kGrainSamples = 1 << 17;
constexpr int64_t kGrainRows = 1 << 14;

// The groups that have samples and are certified at radius 0, and what is the same for them at every radius.
struct Groups {
  std::vector<double> probit_lower, probit_upper;
  std::vector<int64_t> count[2];                     // wrong, right
  std::vector<int64_t> confidence, clean_square[2];  // fixed point
  std::vector<int> clean_bin;
};

std::vector<int64_t> count_groups(const int64_t* group, const uint8_t* correct, int64_t samples,
                                  int64_t groups, int threads) {
  std::vector<int64_t> counts(static_cast<size_t>(2 * groups), 0);
  // A private copy per thread pays only while it is small beside the thread's share of the samples.
  const int used = groups * 8 < samples ? threads : 1;
  parallel_for(samples, kGrainSamples, used, [&](int64_t first, int64_t last) {
    if (used == 1) {
      for (int64_t n = first; n < last; ++n)
        ++counts[static_cast<size_t>(2 * group[n] + (correct[n] != 0))];
      return;
    }
    std::vector<int64_t> local(counts.size(), 0);
    for (int64_t n = first; n < last; ++n)
      ++local[static_cast<size_t>(2 * group[n] + (correct[n] != 0))];
    for (size_t g = 0; g < local.size(); ++g) atomic_add(counts[g], local[g]);
  });
  return counts;
}

// In decreasing order of probit_lower: what is certified at a radius then comes first.
Groups occupied_groups(const std::vector<int64_t>& counts, const double* confidence,
                       const double* probit_lower, const double* probit_upper, int64_t groups,
                       const Bins& bins) {
  std::vector<size_t> order;
  for (size_t g = 0; g < static_cast<size_t>(groups); ++g) {
    const bool empty = counts[2 * g] + counts[2 * g + 1] == 0;
    if (!empty && prediction_is_certified(probit_lower[g], 0.0)) order.push_back(g);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t g, size_t h) { return probit_lower[g] > probit_lower[h]; });
  Groups occupied;
  for (const size_t g : order) {
    const double z = confidence[g];
    occupied.probit_lower.push_back(probit_lower[g]);
    occupied.probit_upper.push_back(probit_upper[g]);
    occupied.confidence.push_back(fixed_floor(z));
    occupied.clean_bin.push_back(bin_of(z, bins));
    for (size_t c = 0; c < 2; ++c) {
      occupied.count[c].push_back(counts[2 * g + c]);
      occupied.clean_square[c].push_back(worst_square(static_cast<int>(c), z, z));
    }
  }
  return occupied;
}

struct RadiusOutput {
  int64_t* table;
  int64_t* clean;
  int64_t* brier;
};

constexpr int kChunkGroups = 512;

// The intervals of some groups at one radius.
struct Shifted {
  double lower[kChunkGroups], upper[kChunkGroups];
};

ShiftRows best_shift_rows() {
#ifdef CERTCAL_X86
  static const SimdPath path = available_simd_paths().front();
  return for_path(path, shift_rows_scalar, shift_rows_avx2, shift_rows_avx512);
#else
  return shift_rows_scalar;
#endif
}

void add_group(const Groups& groups, size_t g, double lower, double upper, const Bins& bins,
               const RadiusOutput& out) {
  const int a = bin_of(lower, bins);
  const int b = bin_of(upper, bins);
  const int64_t low = fixed_floor(lower);
  const int64_t high = fixed_ceil(upper);
  for (int c = 0; c < 2; ++c) {
    const int64_t times = groups.count[c][g];
    if (times == 0) continue;
    int64_t* cell = out.table + cell_index(c, a, b, bins.count);
    cell[kCount] += times;
    add_words(cell + kLowerHigh, low, times);
    add_words(cell + kUpperHigh, high, times);
    add_words(out.brier + kCertifiedHigh, worst_square(c, lower, upper), times);
    add_words(out.brier + kCleanHigh, groups.clean_square[c][g], times);
    int64_t* bin = out.clean + groups.clean_bin[g] * kCleanWords;
    bin[kSamples] += times;
    bin[kRight] += c * times;
    add_words(bin + kConfidenceHigh, groups.confidence[g], times);
  }
}

void certify_radius(const Groups& groups, double shift, const Bins& bins, const RadiusOutput& out) {
  const std::vector<double>& probits = groups.probit_lower;
  const auto end = std::partition_point(probits.begin(), probits.end(), [&](double probit) {
    return prediction_is_certified(probit, shift);
  });
  const auto certified = static_cast<size_t>(end - probits.begin());
  const ShiftRows shift_rows = best_shift_rows();
  Shifted z;
  // The sums of neighbouring radii, which other threads work on, share cache lines: collect apart, add once.
  std::vector<int64_t> clean(static_cast<size_t>(bins.count) * kCleanWords, 0);
  int64_t brier[kBrierWords] = {};
  const RadiusOutput local{out.table, clean.data(), brier};
  for (size_t first = 0; first < certified; first += kChunkGroups) {
    const size_t count = std::min<size_t>(kChunkGroups, certified - first);
    shift_rows(probits.data() + first, groups.probit_upper.data() + first, shift,
               static_cast<int64_t>(count), kNormalCdfTable, z.lower, z.upper);
    for (size_t k = 0; k < count; ++k) {
      add_group(groups, first + k, z.lower[k], z.upper[k], bins, local);
    }
  }
  for (size_t w = 0; w < clean.size(); ++w) out.clean[w] += clean[w];
  for (int w = 0; w < kBrierWords; ++w) out.brier[w] += brier[w];
}

}  // namespace

void certify_cpu(const int64_t* group, const uint8_t* correct, int64_t samples,
                 const double* confidence, const double* probit_lower, const double* probit_upper,
                 int64_t groups, const double* shifts, int64_t radii, const Bins& bins,
                 int64_t* tables, int64_t* clean, int64_t* brier, int threads) {
  const Groups occupied = occupied_groups(count_groups(group, correct, samples, groups, threads),
                                          confidence, probit_lower, probit_upper, groups, bins);
  const int64_t grain =
      std::max<int64_t>(1, kGrainRows / (static_cast<int64_t>(occupied.probit_lower.size()) + 1));
  // The larger the radius, the less is certified: threads take turns, or the first one would get most of the work.
  const int64_t strands = std::clamp<int64_t>(radii / grain, 1, std::max(threads, 1));
  parallel_for(strands, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t strand = first; strand < last; ++strand) {
      for (int64_t r = strand; r < radii; r += strands) {
        certify_radius(occupied, shifts[r], bins,
                       {tables + r * table_words(bins.count), clean + r * bins.count * kCleanWords,
                        brier + r * kBrierWords});
      }
    }
  });
}

void shift_interval_cpu(const double* probit_lower, const double* probit_upper, double shift,
                        int64_t rows, double* lower, double* upper, int threads) {
  parallel_for(rows, kGrainRows, threads, [&](int64_t first, int64_t last) {
    best_shift_rows()(probit_lower + first, probit_upper + first, shift, last - first,
                      kNormalCdfTable, lower + first, upper + first);
  });
}

void summarize_cpu(const int64_t* tables, const int64_t* clean, const int64_t* brier, int64_t radii,
                   const Bins& bins, double* summary, int threads) {
  parallel_for(radii, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t* bin = clean + r * bins.count * kCleanWords;
      const int64_t* squares = brier + r * kBrierWords;
      int64_t rows = 0, right = 0;
      WideInt gaps = 0;
      for (int m = 0; m < bins.count; ++m, bin += kCleanWords) {
        rows += bin[kSamples];
        right += bin[kRight];
        const WideInt gap = static_cast<WideInt>(bin[kRight]) * kOne -
                            join_words(bin[kConfidenceHigh], bin[kConfidenceLow]);
        gaps += gap < 0 ? -gap : gap;
      }
      double* out = summary + r * kSummaryColumns;
      std::fill(out, out + kSummaryColumns, 0.0);
      if (rows == 0) continue;
      out[kCertifiedRows] = static_cast<double>(rows);
      out[kRightRows] = static_cast<double>(right);
      out[kCleanEce] = mean_rounded_up(gaps, rows);
      out[kCertifiedEce] = solve_ece(tables + r * table_words(bins.count), bins).value;
      out[kCleanBrier] = mean_rounded_up(join_words(squares[kCleanHigh], squares[kCleanLow]), rows);
      out[kCertifiedBrier] =
          mean_rounded_up(join_words(squares[kCertifiedHigh], squares[kCertifiedLow]), rows);
    }
  });
}

}  // namespace certcal
