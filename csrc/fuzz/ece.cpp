// SPDX-License-Identifier: MIT
// Tables of rows from raw bytes: update, merge, solve and the worst confidences, against definitions and brute force.
#include "../cpu/ece.hpp"

#include <algorithm>

#include "../core/certify.hpp"
#include "../core/ece_solve.hpp"
#include "../core/wide_int.hpp"
#include "fuzz.hpp"

using namespace certcal;

namespace certcal_fuzz {
namespace {

struct Rows {
  std::vector<uint8_t> correct;
  std::vector<double> lower, upper;

  int64_t size() const { return static_cast<int64_t>(correct.size()); }
  void push(const Rows& from, size_t n) {
    correct.push_back(from.correct[n]);
    lower.push_back(from.lower[n]);
    upper.push_back(from.upper[n]);
  }
};

Rows rows_of(Input& input, bool any_bits) {
  Rows rows;
  while (!input.empty() && rows.size() < 48) {
    rows.correct.push_back(input.byte());
    double lower = any_bits && input.flag() ? input.raw<double>() : input.unit();
    double upper = any_bits && input.flag() ? input.raw<double>() : input.unit();
    if (!any_bits && lower > upper) std::swap(lower, upper);
    rows.lower.push_back(lower);
    rows.upper.push_back(upper);
  }
  return rows;
}

using Table = std::vector<int64_t>;

int64_t add(const Rows& rows, const Bins& bins, Table& table, int threads) {
  return ece_update_cpu(rows.correct.data(), rows.lower.data(), rows.upper.data(), rows.size(),
                        bins, table.data(), threads);
}

Table empty_table(const Bins& bins) {
  return Table(static_cast<size_t>(table_words(bins.count)), 0);
}

Table table_of(const Rows& rows, const Bins& bins, int threads = 1) {
  Table table = empty_table(bins);
  CERTCAL_HOLDS(add(rows, bins, table, threads) == -1);
  return table;
}

Table defined_table(const Rows& rows, const Bins& bins) {
  Table table = empty_table(bins);
  for (size_t n = 0; n < rows.correct.size(); ++n) {
    int64_t* cell =
        table.data() + cell_index(rows.correct[n] != 0 ? 1 : 0, defined_bin(rows.lower[n], bins),
                                  defined_bin(rows.upper[n], bins), bins.count);
    const auto low = static_cast<int64_t>(std::floor(std::ldexp(rows.lower[n], kFractionBits)));
    const auto high = static_cast<int64_t>(std::ceil(std::ldexp(rows.upper[n], kFractionBits)));
    const int64_t words[kCellWords] = {1, low >> kLowBits, low & kLowMask, high >> kLowBits,
                                       high & kLowMask};
    for (int w = 0; w < kCellWords; ++w) cell[w] += words[w];
  }
  return table;
}

// N times the ECE of these confidences.
long double plain_gaps(const Rows& rows, const std::vector<double>& confidence, const Bins& bins) {
  std::vector<long double> gaps(static_cast<size_t>(bins.count), 0.0L);
  for (size_t n = 0; n < confidence.size(); ++n) {
    gaps[static_cast<size_t>(defined_bin(confidence[n], bins))] +=
        (rows.correct[n] != 0 ? 1.0L : 0.0L) - confidence[n];
  }
  long double sum = 0;
  for (const long double gap : gaps) sum += std::fabs(gap);
  return sum;
}

// What a row gives for one choice of signs, in fixed point.
int64_t gain(bool correct, double lower, double upper, const Bins& bins, unsigned plus) {
  const int a = defined_bin(lower, bins), b = defined_bin(upper, bins);
  if (correct) {
    int first = a;
    while (first <= b && (plus >> first & 1u) == 0) ++first;
    if (first > b) return fixed_ceil(upper) - kOne;
    return kOne - (first == a ? fixed_floor(lower) : fixed_floor(bins.edges[first]));
  }
  int last = b;
  while (last >= a && (plus >> last & 1u) != 0) --last;
  if (last < a) return -fixed_floor(lower);
  return last == b ? fixed_ceil(upper) : fixed_ceil(bins.edges[last + 1]);
}

double brute_force(const Rows& rows, const Bins& bins) {
  WideInt best = 0;
  for (unsigned plus = 0; plus < 1u << bins.count; ++plus) {
    WideInt sum = 0;
    for (size_t n = 0; n < rows.correct.size(); ++n) {
      sum += gain(rows.correct[n] != 0, rows.lower[n], rows.upper[n], bins, plus);
    }
    best = std::max(best, sum);
  }
  return mean_rounded_up(best, rows.size());
}

void check_bad_rows(const Rows& rows, const Bins& bins, int threads) {
  int64_t first_bad = -1;
  for (int64_t n = rows.size() - 1; n >= 0; --n) {
    const auto at = static_cast<size_t>(n);
    const double lower = rows.lower[at], upper = rows.upper[at];
    if (!(lower >= 0 && lower <= upper && upper <= 1)) first_bad = n;
  }
  const Table before(empty_table(bins).size(), 7);
  Table table = before;
  std::vector<int64_t> sums = {7, 7};
  CERTCAL_HOLDS(add(rows, bins, table, threads) == first_bad);
  CERTCAL_HOLDS(brier_update_cpu(rows.correct.data(), rows.lower.data(), rows.upper.data(),
                                 rows.size(), sums.data(), threads) == first_bad);
  if (first_bad >= 0) {
    CERTCAL_HOLDS(table == before);
    CERTCAL_HOLDS(sums[0] == 7 && sums[1] == 7);
  }
}

void check_merge(const Rows& rows, const Bins& bins, const Table& whole, double value,
                 uint8_t pattern) {
  Rows parts[2];
  for (size_t n = rows.correct.size(); n-- > 0;) parts[pattern >> (n % 8) & 1].push(rows, n);
  Table sum = empty_table(bins);
  long double mean = 0;
  for (const Rows& part : parts) {
    const Table table = table_of(part, bins);
    for (size_t w = 0; w < sum.size(); ++w) sum[w] += table[w];
    mean += solve_ece(table.data(), bins).value * static_cast<long double>(part.size());
    CERTCAL_HOLDS(add(part, bins, sum, 2) == -1);  // added and taken off: rows and tables agree
    for (size_t w = 0; w < sum.size(); ++w) sum[w] -= table[w];
  }
  CERTCAL_HOLDS(sum == whole);
  // The worst case of all is at most the mean of those of the parts, each of which may choose its own signs.
  CERTCAL_HOLDS(value * static_cast<long double>(rows.size()) <= mean + 1e-12L);
}

void check_worst(const Rows& rows, const Bins& bins, const EceSolution& solution) {
  std::vector<double> worst(rows.correct.size());
  ece_worst_confidence_cpu(rows.correct.data(), rows.lower.data(), rows.upper.data(), rows.size(),
                           bins, solution.signs.data(), worst.data(), 1);
  for (size_t n = 0; n < worst.size(); ++n) {
    CERTCAL_HOLDS(rows.lower[n] <= worst[n] && worst[n] <= rows.upper[n]);
  }
  const long double size = static_cast<long double>(rows.size());
  CERTCAL_HOLDS(plain_gaps(rows, worst, bins) / size >= solution.value - 1e-9L);
}

void check_brier(const Rows& rows, double wider_lower) {
  WideInt exact = 0;
  for (size_t n = 0; n < rows.correct.size(); ++n) {
    const bool right = rows.correct[n] != 0;
    exact += worst_square(right ? 1 : 0, rows.lower[n], rows.upper[n]);
    const long double error =
        right ? 1.0L - rows.lower[n] : static_cast<long double>(rows.upper[n]);
    const auto square =
        static_cast<long double>(worst_square(right ? 1 : 0, rows.lower[n], rows.upper[n]));
    CERTCAL_HOLDS(square * 0x1p-52L >= error * error - 1e-18L);
    CERTCAL_HOLDS(square * 0x1p-52L <= error * error + 1e-15L);
    CERTCAL_HOLDS(worst_square(1, std::fmin(wider_lower, rows.lower[n]), 1.0) >=
                  worst_square(1, rows.lower[n], rows.upper[n]));
  }
  int64_t sums[2] = {0, 0};
  CERTCAL_HOLDS(brier_update_cpu(rows.correct.data(), rows.lower.data(), rows.upper.data(),
                                 rows.size(), sums, 2) == -1);
  CERTCAL_HOLDS(join_words(sums[0], sums[1]) == exact);
}

}  // namespace

void ece(const uint8_t* data, size_t size) {
  Input input(data, size);
  const Edges edges(input, 17);
  const Bins bins = edges.bins();
  const uint8_t pattern = input.byte(), choice = input.byte();
  const double other = input.unit();
  const int threads = 1 + (choice >> 1) % 3;
  CERTCAL_HOLDS(bin_of(other, bins) == defined_bin(other, bins));
  Rows rows = rows_of(input, (choice & 1) != 0);
  if ((choice & 1) != 0) return check_bad_rows(rows, bins, threads);

  const Table table = table_of(rows, bins, threads);
  CERTCAL_HOLDS(table == defined_table(rows, bins));
  const EceSolution solution = solve_ece(table.data(), bins);
  CERTCAL_HOLDS(solution.value >= 0 && solution.value <= 1);
  if (rows.size() == 0) return;
  if (bins.count <= 6) CERTCAL_HOLDS(solution.value == brute_force(rows, bins));
  check_merge(rows, bins, table, solution.value, pattern);
  check_worst(rows, bins, solution);
  check_brier(rows, other);
  for (const std::vector<double>& inside : {rows.lower, rows.upper}) {
    const long double size_ = static_cast<long double>(rows.size());
    CERTCAL_HOLDS(plain_gaps(rows, inside, bins) / size_ <= solution.value + 1e-16L);
  }
  // A wider interval is never better.
  const size_t row = pattern % rows.correct.size();
  rows.lower[row] = std::min(rows.lower[row], other);
  rows.upper[row] = std::max(rows.upper[row], other);
  CERTCAL_HOLDS(solve_ece(table_of(rows, bins).data(), bins).value >= solution.value);
}

}  // namespace certcal_fuzz
