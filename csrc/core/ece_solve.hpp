// SPDX-License-Identifier: MIT
// The certified ECE of a table: the exact maximum over all confidences inside the intervals, in O(M^2).
//
// Theorem (design: "The exact certified ECE"). ECE = (1/N) sum_m |E_m| and |x| = max_s s x, so the worst case is
// max over sign vectors s of sum_n f_n(s), where, with a and b the bins of a sample's lower and upper bound,
//   right (c = 1): 1 - max(lower, left edge of the first + bin in [a, b]), or upper - 1 where [a, b] has no + bin;
//   wrong (c = 0): min(upper, right edge of the last - bin in [a, b]), or -lower where [a, b] has no - bin.
// Cut s into its maximal runs. What a right sample gains depends only on the run that holds a: its sign and its end.
// What a wrong sample gains depends only on the run that holds b: its sign and its start. So each run (i..j, sign) has a
// weight of its own, and a dynamic program over alternating runs adds them up. All sums are integers: no rounding in here.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "ece_table.hpp"
#include "fixed_point.hpp"
#include "wide_int.hpp"

namespace certcal {

struct EceSolution {
  double value;               // rounded up
  std::vector<int8_t> signs;  // (M,) +1 or -1
};

namespace detail {

// What the recursion needs of the table, as (M + 1) x (M + 1) prefix sums over (a, b): entry (a, b) sums all cells
// with a' < a and b' < b.
class PrefixSums {
 public:
  explicit PrefixSums(int bins)
      : width_(bins + 1), sums_(static_cast<size_t>(width_) * static_cast<size_t>(width_), 0) {}

  template <class CellValue>
  void fill(CellValue value) {
    for (int a = 1; a < width_; ++a) {
      for (int b = 1; b < width_; ++b) {
        at(a, b) = value(a - 1, b - 1) + at(a - 1, b) + at(a, b - 1) - at(a - 1, b - 1);
      }
    }
  }

  // Sum over a in [a0, a1) and b in [b0, b1).
  WideInt box(int a0, int a1, int b0, int b1) const {
    return at(a1, b1) - at(a0, b1) - at(a1, b0) + at(a0, b0);
  }

 private:
  WideInt& at(int a, int b) { return sums_[static_cast<size_t>(a * width_ + b)]; }
  const WideInt& at(int a, int b) const { return sums_[static_cast<size_t>(a * width_ + b)]; }

  int width_;
  std::vector<WideInt> sums_;
};

struct TableSums {
  PrefixSums count_right, gain_right,
      loss_right;  // N, sum(1 - lower), sum(upper - 1) over right samples
  PrefixSums count_wrong, gain_wrong, loss_wrong;  // N, sum(upper), sum(-lower) over wrong samples

  TableSums(const int64_t* table, int bins)
      : count_right(bins),
        gain_right(bins),
        loss_right(bins),
        count_wrong(bins),
        gain_wrong(bins),
        loss_wrong(bins) {
    const auto count = [=](int c) {
      return [=](int a, int b) { return WideInt{table[cell_index(c, a, b, bins) + kCount]}; };
    };
    const auto lower = [=](int c) {
      return [=](int a, int b) {
        const int64_t* cell = table + cell_index(c, a, b, bins);
        return join_words(cell[kLowerHigh], cell[kLowerLow]);
      };
    };
    const auto upper = [=](int c) {
      return [=](int a, int b) {
        const int64_t* cell = table + cell_index(c, a, b, bins);
        return join_words(cell[kUpperHigh], cell[kUpperLow]);
      };
    };
    count_right.fill(count(1));
    count_wrong.fill(count(0));
    gain_right.fill([&](int a, int b) { return count(1)(a, b) * kOne - lower(1)(a, b); });
    loss_right.fill([&](int a, int b) { return upper(1)(a, b) - count(1)(a, b) * kOne; });
    gain_wrong.fill(upper(0));
    loss_wrong.fill([&](int a, int b) { return -lower(0)(a, b); });
  }
};

// The weight of the run of bins [i, j] with sign +. Wrong samples that reach below i use the edge there.
inline WideInt plus_run_weight(const TableSums& t, const Bins& bins, int i, int j) {
  const int m = bins.count;
  WideInt weight = t.gain_right.box(i, j + 1, 0, m) + t.loss_wrong.box(i, m, i, j + 1);
  if (i > 0) weight += t.count_wrong.box(0, i, i, j + 1) * fixed_ceil(bins.edges[i]);
  return weight;
}

// The weight of the run of bins [i, j] with sign -. Right samples that reach above j use the edge there.
inline WideInt minus_run_weight(const TableSums& t, const Bins& bins, int i, int j) {
  const int m = bins.count;
  WideInt weight = t.gain_wrong.box(0, m, i, j + 1) + t.loss_right.box(i, j + 1, 0, j + 1);
  if (j + 1 < m) {
    weight += t.count_right.box(i, j + 1, j + 1, m) * (kOne - fixed_floor(bins.edges[j + 1]));
  }
  return weight;
}

}  // namespace detail

// `table` holds table_words(bins.count) integers; an empty table gives 0.
inline EceSolution solve_ece(const int64_t* table, const Bins& bins) {
  const int m = bins.count;
  const detail::TableSums sums(table, m);
  // best[s][j + 1]: the most that bins 0..j can give when the run that ends at j has sign s (0: -, 1: +).
  // Without a run there is nothing to alternate with, so both signs start from 0.
  std::vector<WideInt> best[2];
  std::vector<int> start[2];
  for (int s = 0; s < 2; ++s) {
    best[s].assign(static_cast<size_t>(m) + 1, 0);
    start[s].assign(static_cast<size_t>(m) + 1, 0);
  }
  for (int j = 0; j < m; ++j) {
    for (int s = 0; s < 2; ++s) {
      WideInt& value = best[s][static_cast<size_t>(j) + 1];
      for (int i = j; i >= 0; --i) {
        const WideInt weight = s == 1 ? detail::plus_run_weight(sums, bins, i, j)
                                      : detail::minus_run_weight(sums, bins, i, j);
        const WideInt candidate = best[1 - s][static_cast<size_t>(i)] + weight;
        if (i == j || candidate > value) {
          value = candidate;
          start[s][static_cast<size_t>(j) + 1] = i;
        }
      }
    }
  }

  EceSolution solution{0.0, std::vector<int8_t>(static_cast<size_t>(m), 1)};
  int sign = best[1][static_cast<size_t>(m)] >= best[0][static_cast<size_t>(m)] ? 1 : 0;
  const WideInt total = best[sign][static_cast<size_t>(m)];
  for (int end = m; end > 0; sign = 1 - sign) {
    const int begin = start[sign][static_cast<size_t>(end)];
    for (int k = begin; k < end; ++k) solution.signs[static_cast<size_t>(k)] = sign == 1 ? 1 : -1;
    end = begin;
  }

  const WideInt rows = sums.count_right.box(0, m, 0, m) + sums.count_wrong.box(0, m, 0, m);
  if (rows > 0) solution.value = mean_rounded_up(total, static_cast<int64_t>(rows));
  return solution;
}

// The worst confidence of one sample for given signs. first_plus[a]: the first + bin at or after a (bins.count: none);
// last_minus[b]: the last - bin at or before b (-1: none). An open edge is approached to one step of the double.
inline double worst_confidence(bool correct, double lower, double upper, const Bins& bins,
                               const int* first_plus, const int* last_minus) {
  const int a = bin_of(lower, bins);
  const int b = bin_of(upper, bins);
  if (correct) {
    const int target = first_plus[a];
    if (target > b) return upper;
    if (target == a) return lower;
    const double edge = bins.edges[target];
    return bins.closed_left ? edge : std::nextafter(edge, 1.0);
  }
  const int target = last_minus[b];
  if (target < a) return lower;
  if (target == b) return upper;
  const double edge = bins.edges[target + 1];
  return bins.closed_left ? std::nextafter(edge, 0.0) : edge;
}

}  // namespace certcal
