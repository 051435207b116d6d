// SPDX-License-Identifier: MIT
#include "votes_kernel.hpp"

namespace certcal {

template <class Real>
void top_rows_scalar(const Real* logits, int64_t rows, int64_t classes, const Real*,
                     const Real* margins, RowBlock& out) {
  out.faulty = out.near_ties = 0;
  for (int64_t r = 0; r < rows; ++r) {
    bool faulty = false;
    const TopTwo<Real> top = top_of_row_plain(logits + r * classes, classes, faulty);
    out.top[r] = top.best_class;
    out.faulty |= uint64_t{faulty} << r;
    if (margins != nullptr) out.near_ties |= uint64_t{top.is_near_tie(margins[r])} << r;
  }
}

template <class Real>
void score_rows_scalar(const Real* logits, int64_t rows, int64_t classes, const Real*,
                       const int64_t* chosen, const Real* margins, RowBlock& out) {
  out.faulty = out.near_ties = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const Real* row = logits + r * classes;
    bool faulty = false;
    const TopTwo<Real> top = top_of_row_plain(row, classes, faulty);
    out.top[r] = top.best_class;
    out.faulty |= uint64_t{faulty} << r;
    if (margins != nullptr) out.near_ties |= uint64_t{top.is_near_tie(margins[r])} << r;
    if (faulty) continue;
    uint64_t sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += units_of(row[k], top.best);
    const int64_t k = chosen != nullptr ? chosen[r] : top.best_class;
    out.score[r] = score_of(units_of(row[k], top.best), sum);
  }
}

template void top_rows_scalar(const float*, int64_t, int64_t, const float*, const float*,
                              RowBlock&);
template void top_rows_scalar(const double*, int64_t, int64_t, const double*, const double*,
                              RowBlock&);
template void score_rows_scalar(const float*, int64_t, int64_t, const float*, const int64_t*,
                                const float*, RowBlock&);
template void score_rows_scalar(const double*, int64_t, int64_t, const double*, const int64_t*,
                                const double*, RowBlock&);

}  // namespace certcal
