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

// Sums over the samples of one bin, whatever their other end.
struct BinSums {
  int64_t right = 0, wrong = 0;            // right samples by lower end, wrong ones by upper end
  WideInt gain_right = 0, gain_wrong = 0;  // sum(1 - lower) of the former, sum(upper) of the latter
};

// Sums over the samples whose lower end lies in one bin and whose upper end lies in a column taken so far.
struct RowSums {
  int64_t right = 0, wrong = 0;
  WideInt loss_right = 0,
          loss_wrong = 0;  // sum(upper - 1) over right, sum(-lower) over wrong samples
};

// The weights of all runs, in memory that grows with the bins and not with their square. No cell below the diagonal is
// read: a sample's lower end never lies in a higher bin than its upper end.
class RunWeights {
 public:
  RunWeights(const int64_t* table, const Bins& bins)
      : table_(table),
        bins_(bins),
        by_bin_(static_cast<size_t>(bins.count)),
        rows_(static_cast<size_t>(bins.count)) {
    for (int a = 0; a < bins.count; ++a) {
      for (int b = a; b < bins.count; ++b) {
        const int64_t* right = cell(1, a, b);
        const int64_t* wrong = cell(0, a, b);
        BinSums& first = by_bin_[static_cast<size_t>(a)];
        BinSums& last = by_bin_[static_cast<size_t>(b)];
        first.right += right[kCount];
        first.gain_right += right[kCount] * WideInt{kOne} - lower_sum(right);
        last.wrong += wrong[kCount];
        last.gain_wrong += upper_sum(wrong);
      }
    }
  }

  int64_t samples() const {
    int64_t sum = 0;
    for (const BinSums& bin : by_bin_) sum += bin.right + bin.wrong;
    return sum;
  }

  // Calls visit(i, plus, minus) with the weights of the runs of bins [i, j] of either sign, for i = j, ..., 0. To be
  // called for j = 0, 1, ... in turn. Wrong samples of a + run that reach below i use the edge there, right samples of a
  // - run that reach above j the edge there.
  template <class Visit>
  void for_runs_to(int j, const Visit& visit) {
    take_column(j);
    const bool last = j + 1 == bins_.count;
    const int64_t above = last ? 0 : kOne - fixed_floor(bins_.edges[j + 1]);
    WideInt plus = 0, minus = 0;  // but for what edges give
    int64_t from_below = 0,
            beyond_above = 0;  // wrong samples that begin below i, right ones that end above j
    for (int i = j; i >= 0; --i) {
      const BinSums& bin = by_bin_[static_cast<size_t>(i)];
      const RowSums& row = rows_[static_cast<size_t>(i)];
      plus += bin.gain_right + row.loss_wrong;
      minus += bin.gain_wrong + row.loss_right;
      from_below += bin.wrong - row.wrong;
      beyond_above += bin.right - row.right;
      visit(i, plus + static_cast<WideInt>(from_below) * fixed_ceil(bins_.edges[i]),
            minus + static_cast<WideInt>(beyond_above) * above);
    }
  }

 private:
  const int64_t* cell(int correct, int a, int b) const {
    return table_ + cell_index(correct, a, b, bins_.count);
  }
  static WideInt lower_sum(const int64_t* cell) {
    return join_words(cell[kLowerHigh], cell[kLowerLow]);
  }
  static WideInt upper_sum(const int64_t* cell) {
    return join_words(cell[kUpperHigh], cell[kUpperLow]);
  }

  void take_column(int j) {
    for (int a = 0; a <= j; ++a) {
      const int64_t* right = cell(1, a, j);
      const int64_t* wrong = cell(0, a, j);
      RowSums& row = rows_[static_cast<size_t>(a)];
      row.right += right[kCount];
      row.wrong += wrong[kCount];
      row.loss_right += upper_sum(right) - right[kCount] * WideInt{kOne};
      row.loss_wrong -= lower_sum(wrong);
    }
  }

  const int64_t* table_;
  const Bins& bins_;
  std::vector<BinSums> by_bin_;
  std::vector<RowSums> rows_;
};

}  // namespace detail

// `table` holds table_words(bins.count) integers; an empty table gives 0.
inline EceSolution solve_ece(const int64_t* table, const Bins& bins) {
  const int m = bins.count;
  detail::RunWeights weights(table, bins);
  // best[s][j + 1]: the most that bins 0..j can give when the run that ends at j has sign s (0: -, 1: +).
  // Without a run there is nothing to alternate with, so both signs start from 0.
  std::vector<WideInt> best[2];
  std::vector<int> start[2];
  for (int s = 0; s < 2; ++s) {
    best[s].assign(static_cast<size_t>(m) + 1, 0);
    start[s].assign(static_cast<size_t>(m) + 1, 0);
  }
  for (int j = 0; j < m; ++j) {
    const size_t end = static_cast<size_t>(j) + 1;
    weights.for_runs_to(j, [&](int i, WideInt plus, WideInt minus) {
      for (int s = 0; s < 2; ++s) {
        const WideInt candidate = best[1 - s][static_cast<size_t>(i)] + (s == 1 ? plus : minus);
        if (i == j || candidate > best[s][end]) {
          best[s][end] = candidate;
          start[s][end] = i;
        }
      }
    });
  }

  EceSolution solution{0.0, std::vector<int8_t>(static_cast<size_t>(m), 1)};
  int sign = best[1][static_cast<size_t>(m)] >= best[0][static_cast<size_t>(m)] ? 1 : 0;
  const WideInt total = best[sign][static_cast<size_t>(m)];
  for (int end = m; end > 0; sign = 1 - sign) {
    const int begin = start[sign][static_cast<size_t>(end)];
    for (int k = begin; k < end; ++k) solution.signs[static_cast<size_t>(k)] = sign == 1 ? 1 : -1;
    end = begin;
  }

  const int64_t rows = weights.samples();
  if (rows > 0) solution.value = mean_rounded_up(total, rows);
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
