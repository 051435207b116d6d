// SPDX-License-Identifier: MIT
// The fused bound from raw bytes, against the loop over samples; intervals that shift, on every path.
#include "../core/certify.hpp"

#include <algorithm>

#include "../cpu/cdf_table.hpp"
#include "../cpu/certify.hpp"
#include "../cpu/shift_kernel.hpp"
#include "../cpu/simd_path.hpp"
#include "fuzz.hpp"

using namespace certcal;

namespace certcal_fuzz {
namespace {

struct Case {
  std::vector<int64_t> group;
  std::vector<uint8_t> correct;
  std::vector<double> confidence, probit_lower, probit_upper, shifts;

  int64_t samples() const { return static_cast<int64_t>(group.size()); }
  int64_t groups() const { return static_cast<int64_t>(confidence.size()); }
  int64_t radii() const { return static_cast<int64_t>(shifts.size()); }
};

struct Output {
  std::vector<int64_t> tables, clean, brier;

  Output(const Case& c, const Bins& bins)
      : tables(c.shifts.size() * static_cast<size_t>(table_words(bins.count)), 0),
        clean(c.shifts.size() * static_cast<size_t>(bins.count) * kCleanWords, 0),
        brier(c.shifts.size() * kBrierWords, 0) {}
  bool operator==(const Output& o) const {
    return tables == o.tables && clean == o.clean && brier == o.brier;
  }
};

double probit(Input& input) {
  const uint8_t kind = input.byte();
  if (kind < 4) return input.raw<double>();  // anything, NaN and infinities too
  if (kind < 8) return (kind % 2 == 0 ? 1 : -1) * kCdfLimit;
  return (kind - 96) / 16.0 + static_cast<double>(input.byte()) / 4096.0;
}

Case case_of(Input& input) {
  Case c;
  const int64_t groups = input.from(1, 7), radii = input.from(0, 3);
  for (int64_t g = 0; g < groups; ++g) {
    double lower = probit(input), upper = probit(input);
    if (lower > upper) std::swap(lower, upper);
    const double below = normal_cdf_below(lower, kNormalCdfTable);
    const double above = normal_cdf_above(upper, kNormalCdfTable);
    CERTCAL_HOLDS(0.0 <= below && below <= 1.0 && 0.0 <= above && above <= 1.0);
    if (lower <= upper) CERTCAL_HOLDS(below <= above);
    c.probit_lower.push_back(lower);
    c.probit_upper.push_back(upper);
    c.confidence.push_back(std::clamp(input.unit(), below, std::max(below, above)));
  }
  for (int64_t r = 0; r < radii; ++r) {
    const double shift = std::fabs(input.flag() ? input.raw<double>() : 3.0 * input.unit());
    c.shifts.push_back(std::isfinite(shift) ? shift : 0.0);
  }
  while (!input.empty() && c.group.size() < 64) {
    const uint8_t row = input.byte();
    c.group.push_back(row % groups);
    c.correct.push_back(static_cast<uint8_t>(row >> 6));
  }
  return c;
}

Output certified(const Case& c, const Bins& bins, int threads) {
  Output out(c, bins);
  certify_cpu(c.group.data(), c.correct.data(), c.samples(), c.confidence.data(),
              c.probit_lower.data(), c.probit_upper.data(), c.groups(), c.shifts.data(), c.radii(),
              bins, out.tables.data(), out.clean.data(), out.brier.data(), threads);
  return out;
}

void add_split(int64_t* words, int64_t q) {
  words[0] += q >> kLowBits;
  words[1] += q & kLowMask;
}

Output defined(const Case& c, const Bins& bins) {
  Output out(c, bins);
  for (int64_t r = 0; r < c.radii(); ++r) {
    const double shift = c.shifts[static_cast<size_t>(r)];
    for (size_t n = 0; n < c.group.size(); ++n) {
      const auto g = static_cast<size_t>(c.group[n]);
      if (!(c.probit_lower[g] > shift)) continue;
      const int right = c.correct[n] != 0 ? 1 : 0;
      const Interval z =
          shift_interval(c.probit_lower[g], c.probit_upper[g], shift, kNormalCdfTable);
      const double point = c.confidence[g];
      int64_t* cell =
          out.tables.data() + r * table_words(bins.count) +
          cell_index(right, defined_bin(z.lower, bins), defined_bin(z.upper, bins), bins.count);
      cell[kCount] += 1;
      add_split(cell + kLowerHigh, fixed_floor(z.lower));
      add_split(cell + kUpperHigh, fixed_ceil(z.upper));
      int64_t* brier = out.brier.data() + r * kBrierWords;
      add_split(brier + kCertifiedHigh, worst_square(right, z.lower, z.upper));
      add_split(brier + kCleanHigh, worst_square(right, point, point));
      int64_t* bin = out.clean.data() + (r * bins.count + defined_bin(point, bins)) * kCleanWords;
      bin[kSamples] += 1;
      bin[kRight] += right;
      add_split(bin + kConfidenceHigh, fixed_floor(point));
    }
  }
  return out;
}

void check_summary(const Case& c, const Bins& bins, const Output& out) {
  std::vector<double> summary(c.shifts.size() * kSummaryColumns, -1.0);
  summarize_cpu(out.tables.data(), out.clean.data(), out.brier.data(), c.radii(), bins,
                summary.data(), 2);
  for (size_t r = 0; r < c.shifts.size(); ++r) {
    const double* row = summary.data() + r * kSummaryColumns;
    for (int k = 0; k < kSummaryColumns; ++k) CERTCAL_HOLDS(row[k] >= 0);
    for (int k = kCleanEce; k < kSummaryColumns; ++k) CERTCAL_HOLDS(row[k] <= 1);
    CERTCAL_HOLDS(row[kRightRows] <= row[kCertifiedRows]);
    // The clean confidence lies within the interval, so no bound is below the clean value.
    CERTCAL_HOLDS(row[kCertifiedEce] >= row[kCleanEce]);
    CERTCAL_HOLDS(row[kCertifiedBrier] >= row[kCleanBrier]);
  }
}

// Every path gives the bits of the definition; more shift never narrows an interval by more than the slack of Phi.
void check_shifts(const Case& c) {
  const size_t rows = c.confidence.size();
  for (const double shift : c.shifts) {
    std::vector<double> lower(rows), upper(rows);
    shift_interval_cpu(c.probit_lower.data(), c.probit_upper.data(), shift, c.groups(),
                       lower.data(), upper.data(), 1);
    for (const SimdPath path : available_simd_paths()) {
      std::vector<double> low(rows), high(rows);
#ifdef CERTCAL_X86
      const ShiftRows run = for_path(path, shift_rows_scalar, shift_rows_avx2, shift_rows_avx512);
#else
      (void)path;
      const ShiftRows run = shift_rows_scalar;
#endif
      run(c.probit_lower.data(), c.probit_upper.data(), shift, c.groups(), kNormalCdfTable,
          low.data(), high.data());
      CERTCAL_HOLDS(low == lower && high == upper);
    }
    for (size_t g = 0; g < rows; ++g) {
      const Interval z =
          shift_interval(c.probit_lower[g], c.probit_upper[g], shift, kNormalCdfTable);
      CERTCAL_HOLDS(lower[g] == z.lower && upper[g] == z.upper);
      const Interval still =
          shift_interval(c.probit_lower[g], c.probit_upper[g], 0.0, kNormalCdfTable);
      CERTCAL_HOLDS(z.lower <= still.lower + 2 * kCdfSlack);
      CERTCAL_HOLDS(z.upper >= still.upper - 2 * kCdfSlack);
    }
  }
}

}  // namespace

void certify(const uint8_t* data, size_t size) {
  Input input(data, size);
  const Edges edges(input, 12);
  const Bins bins = edges.bins();
  Case c = case_of(input);
  check_shifts(c);
  const Output out = certified(c, bins, 1);
  CERTCAL_HOLDS(out == defined(c, bins));
  check_summary(c, bins, out);
  std::reverse(c.group.begin(), c.group.end());
  std::reverse(c.correct.begin(), c.correct.end());
  CERTCAL_HOLDS(certified(c, bins, 3) == out);
}

}  // namespace certcal_fuzz
