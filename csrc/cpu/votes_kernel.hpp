// SPDX-License-Identifier: MIT
// Tops and softmax scores of up to kBlockRows rows, written once for every vector width. Each SIMD path is a translation
// unit of its own (votes_avx2.cpp, ...), compiled with its own instruction set, that instantiates this with its Lanes.
//
// Only always-inlined helpers and templates on Lanes are called from here, nothing of std: a copy compiled for a wide
// instruction set must not reach the linker under a name that other units share.
//
// Rows of few classes are turned around, so that a lane holds a row and a step sees one class of all of them; in longer
// rows a lane sees every kWidth-th class, and the lanes are merged at the end of the row.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "../core/softmax.hpp"
#include "../core/votes.hpp"

namespace certcal {

inline constexpr int64_t kBlockRows = 64;
inline constexpr int64_t kMostVectorClasses = std::numeric_limits<int32_t>::max();

// What the rows of a block say. Bits belong to rows; top and score mean nothing where a row is faulty.
struct RowBlock {
  int64_t top[kBlockRows];
  double score[kBlockRows];
  uint64_t faulty, near_ties;
};

// `end` is where the whole array of logits ends, up to which a vector may read beyond its rows.
template <class Real>
using TopRows = void (*)(const Real* logits, int64_t rows, int64_t classes, const Real* end,
                         const Real* margins,  // (kBlockRows,); null: near ties are not looked for
                         RowBlock& out);
template <class Real>
using ScoreRows = void (*)(const Real* logits, int64_t rows, int64_t classes, const Real* end,
                           const int64_t* chosen,  // (rows,): whose score; null: the top's
                           const Real* margins,    // as above
                           RowBlock& out);

template <class Real>
void top_rows_scalar(const Real* logits, int64_t rows, int64_t classes, const Real* end,
                     const Real* margins, RowBlock& out);
template <class Real>
void score_rows_scalar(const Real* logits, int64_t rows, int64_t classes, const Real* end,
                       const int64_t* chosen, const Real* margins, RowBlock& out);
#ifdef CERTCAL_X86
void top_rows_avx2(const float* logits, int64_t rows, int64_t classes, const float* end,
                   const float* margins, RowBlock& out);
void top_rows_avx512(const float* logits, int64_t rows, int64_t classes, const float* end,
                     const float* margins, RowBlock& out);
void top_rows_avx2(const double* logits, int64_t rows, int64_t classes, const double* end,
                   const double* margins, RowBlock& out);
void top_rows_avx512(const double* logits, int64_t rows, int64_t classes, const double* end,
                     const double* margins, RowBlock& out);
void score_rows_avx2(const float* logits, int64_t rows, int64_t classes, const float* end,
                     const int64_t* chosen, const float* margins, RowBlock& out);
void score_rows_avx2(const double* logits, int64_t rows, int64_t classes, const double* end,
                     const int64_t* chosen, const double* margins, RowBlock& out);
void score_rows_avx512(const float* logits, int64_t rows, int64_t classes, const float* end,
                       const int64_t* chosen, const float* margins, RowBlock& out);
void score_rows_avx512(const double* logits, int64_t rows, int64_t classes, const double* end,
                       const int64_t* chosen, const double* margins, RowBlock& out);
#endif

// Lanes gives: Real, float or double; Float (kWidth of them with +, -, *, fused), Index (as many IndexWord, with +), Mask; max and min (any of two
// equals, anything for NaN), above(x, y) = x > y and equal, is_nan, blend(mask, yes, no) for both, bits(mask); load,
// load_some(p, count, fill), store, columns(p, stride, z) (z[j], lane r = p[r * stride + j] for j < 4; reads no other),
// largest(x); floor, scaled(e, n) = e * 2^(n + 32), difference(p, best) = float(p[k] - best) of float or double p;
// and UnitSum, one sum per lane, exact while below 2^53. Doubles are the lanes that look for the top of a row of doubles,
// and have what that takes.
template <class Lanes, bool kSecond>
struct LaneTops {
  using Float = typename Lanes::Float;
  using Index = typename Lanes::Index;
  using Real = typename Lanes::Real;

  Float best{-std::numeric_limits<Real>::infinity()};
  Float second{-std::numeric_limits<Real>::infinity()};
  Float faults{Real(
      0)};  // becomes NaN with the first NaN or infinity: those times 0 are NaN, all else times 0 is 0
  Index best_class{0};

  // As TopTwo::see.
  void see(Float x, Index k) {
    if constexpr (kSecond) second = Lanes::max(second, Lanes::min(x, best));
    best_class = Lanes::blend(Lanes::above(x, best), k, best_class);
    best = Lanes::max(x, best);
  }
  void check(Float x) { faults = fused(x, Float(Real(0)), faults); }
  uint32_t faulty() const { return Lanes::bits(Lanes::is_nan(faults)); }

  // Where a lane is a row: as TopTwo::is_near_tie.
  uint32_t near_ties(const Real* margins) const {
    return Lanes::bits(Lanes::above(Lanes::load(margins), best - second));
  }

  // The tops of all lanes merged, as by TopTwo::merge: among equals the lowest class.
  TopTwo<Real> merged() const {
    TopTwo<Real> top;
    top.best = Lanes::largest(best);
    const typename Lanes::Mask winners = Lanes::equal(best, Float(top.best));
    uint32_t lanes = Lanes::bits(winners);
    typename Lanes::IndexWord classes[Lanes::kWidth];
    Lanes::store(classes, best_class);
    int64_t lowest = std::numeric_limits<int64_t>::max();
    const bool tied = (lanes & (lanes - 1)) != 0;
    for (; lanes != 0; lanes &= lanes - 1) {
      const int64_t k = classes[__builtin_ctz(lanes)];
      lowest = k < lowest ? k : lowest;
    }
    top.best_class = lowest;
    if constexpr (kSecond) {
      top.second = tied ? top.best : Lanes::largest(Lanes::blend(winners, second, best));
    }
    return top;
  }
};

// exp(x) * 2^32 before it is rounded to units: the operations of exp_units in core/softmax.hpp.
template <class Lanes>
typename Lanes::Float scaled_exp(typename Lanes::Float x) {
  using Float = typename Lanes::Float;
  const Float n = Lanes::floor(fused(x, Float(kLog2E), Float(0.5f)));
  const Float r = fused(n, Float(-kLog2Low), fused(n, Float(-kLog2High), x));
  const Float e = fused(r * r, exp_tail(r), r + Float(1.0f));
  return Lanes::blend(Lanes::above(x, Float(kExpUnderflow)), Lanes::scaled(e, n), Float(0.0f));
}

// Up to how many classes rows are turned around: measured. Scores profit for longer, since a row's end costs more there.
inline constexpr int64_t kFewClassesToCount = 64;
inline constexpr int64_t kFewClassesToScore = 128;

// kWidth rows of at most kFewClassesToScore, a row per lane.
template <class Lanes>
class TurnedRows {
 public:
  using Float = typename Lanes::Float;
  static constexpr int64_t kWidth = Lanes::kWidth;

  // Fewer than kWidth rows, and those at the end of the array, where a vector would read beyond it, are copied.
  TurnedRows(const float* rows, int64_t count, int64_t classes, const float* end)
      : rows_(rows), classes_(classes) {
    if (count >= kWidth && kWidth * classes + 3 <= end - rows) return;
    const int64_t used = (count < kWidth ? count : kWidth) * classes;
    std::memcpy(padded_, rows, static_cast<size_t>(used) * sizeof(float));
    for (int64_t k = used; k < kWidth * classes + 3; ++k) padded_[k] = 0.0f;
    rows_ = padded_;
  }

  // Calls visit(k, x) with the logits of class k.
  template <class Visit>
  void for_each_class(const Visit& visit) const {
    Float z[4] = {Float(0.0f), Float(0.0f), Float(0.0f), Float(0.0f)};
    int64_t k = 0;
    for (; k + 4 <= classes_; k += 4) {
      Lanes::columns(rows_ + k, classes_, z);
      visit(k, z[0]);
      visit(k + 1, z[1]);
      visit(k + 2, z[2]);
      visit(k + 3, z[3]);
    }
    if (k == classes_) return;
    Lanes::columns(rows_ + k, classes_, z);
    visit(k, z[0]);
    if (k + 1 < classes_) visit(k + 1, z[1]);
    if (k + 2 < classes_) visit(k + 2, z[2]);
  }

 private:
  const float* rows_;
  int64_t classes_;
  float padded_[kWidth * kFewClassesToScore + 3];
};

template <class Lanes, bool kSecond>
TopTwo<typename Lanes::Real> top_of_row(const typename Lanes::Real* row, int64_t classes,
                                        bool& faulty) {
  using Float = typename Lanes::Float;
  using Index = typename Lanes::Index;
  using Real = typename Lanes::Real;
  LaneTops<Lanes, kSecond> tops;
  Index place = Lanes::first_places();
  const Index step(Lanes::kWidth);
  int64_t k = 0;
  for (; k + Lanes::kWidth <= classes; k += Lanes::kWidth) {
    const Float x = Lanes::load(row + k);
    tops.check(x);
    tops.see(x, place);
    place = place + step;
  }
  if (k < classes) {
    const int rest = static_cast<int>(classes - k);
    tops.check(Lanes::load_some(row + k, rest, Float(Real(0))));
    const Float least(-std::numeric_limits<Real>::infinity());
    tops.see(Lanes::load_some(row + k, rest, least), place);
  }
  faulty = tops.faulty() != 0;
  return faulty ? TopTwo<Real>{} : tops.merged();
}

template <class Real>
CERTCAL_HD TopTwo<Real> top_of_row_plain(const Real* row, int64_t classes, bool& faulty) {
  TopTwo<Real> top;
  bool finite = true;
  for (int64_t k = 0; k < classes; ++k) {
    finite &= is_finite(row[k]);
    top.see(row[k], k);
  }
  faulty = !finite;
  return top;
}

template <class Real>
CERTCAL_HD uint64_t units_of(Real logit, Real best) {
  return exp_units(static_cast<float>(logit - best));
}

// As Lanes::difference with fewer than kWidth logits; the other lanes get what has no units.
template <class Lanes, class Real>
typename Lanes::Float rest_of_differences(const Real* p, int64_t count, Real best) {
  using Float = typename Lanes::Float;
  constexpr Real kNone = -std::numeric_limits<Real>::infinity();
  if constexpr (sizeof(Real) == sizeof(float)) {
    return Lanes::load_some(p, static_cast<int>(count), Float(kNone)) - Float(best);
  } else {
    Real rest[Lanes::kWidth];
    for (Real& x : rest) x = kNone;
    std::memcpy(rest, p, static_cast<size_t>(count) * sizeof(Real));
    return Lanes::difference(rest, best);
  }
}

// The sum of the units of a row. Every so often the lanes are emptied, long before their sums leave the exact integers.
template <class Lanes, class Real>
uint64_t unit_sum_of_row(const Real* row, int64_t classes, Real best) {
  constexpr int64_t kPart = 1 << 18;
  uint64_t total = 0;
  for (int64_t first = 0; first < classes; first += kPart) {
    const int64_t last = first + kPart < classes ? first + kPart : classes;
    typename Lanes::UnitSum sum;
    int64_t k = first;
    for (; k + Lanes::kWidth <= last; k += Lanes::kWidth) {
      sum.add(scaled_exp<Lanes>(Lanes::difference(row + k, best)));
    }
    if (k < last) {
      sum.add(scaled_exp<Lanes>(rest_of_differences<Lanes>(row + k, last - k, best)));
    }
    double lanes[Lanes::kWidth];
    sum.store(lanes);
    double part = 0;  // whole numbers below 2^53: exact
    for (const double lane : lanes) part += lane;
    total += static_cast<uint64_t>(part);
  }
  return total;
}

template <class Lanes, bool kSecond>
void top_long_rows(const typename Lanes::Real* logits, int64_t rows, int64_t classes,
                   [[maybe_unused]] const typename Lanes::Real* margins, RowBlock& out) {
  out.faulty = out.near_ties = 0;
  for (int64_t r = 0; r < rows; ++r) {
    bool faulty = false;
    const auto top = top_of_row<Lanes, kSecond>(logits + r * classes, classes, faulty);
    out.top[r] = top.best_class;
    out.faulty |= uint64_t{faulty} << r;
    if constexpr (kSecond) out.near_ties |= uint64_t{top.is_near_tie(margins[r])} << r;
  }
}

template <class Lanes, bool kSecond>
void top_rows(const float* logits, int64_t rows, int64_t classes, const float* end,
              const float* margins, RowBlock& out) {
  using Index = typename Lanes::Index;
  out.faulty = out.near_ties = 0;
  if (classes > kFewClassesToCount) {
    top_long_rows<Lanes, kSecond>(logits, rows, classes, margins, out);
    return;
  }
  for (int64_t r = 0; r < rows; r += Lanes::kWidth) {
    const TurnedRows<Lanes> turned(logits + r * classes, rows - r, classes, end);
    LaneTops<Lanes, kSecond> tops;
    turned.for_each_class([&](int64_t k, typename Lanes::Float x) {
      tops.check(x);
      tops.see(x, Index(static_cast<int32_t>(k)));
    });
    Lanes::store(out.top + r, tops.best_class);
    out.faulty |= uint64_t{tops.faulty()} << r;
    if constexpr (kSecond) out.near_ties |= uint64_t{tops.near_ties(margins + r)} << r;
  }
}

template <class Lanes, bool kSecond, class Real>
void score_long_rows(const Real* logits, int64_t rows, int64_t classes, const int64_t* chosen,
                     [[maybe_unused]] const Real* margins, RowBlock& out) {
  for (int64_t r = 0; r < rows; ++r) {
    const Real* row = logits + r * classes;
    bool faulty = false;
    TopTwo<Real> top;
    if constexpr (sizeof(Real) == sizeof(float)) {
      top = top_of_row<Lanes, kSecond>(row, classes, faulty);
    } else {
      top = top_of_row<typename Lanes::Doubles, kSecond>(row, classes, faulty);
    }
    out.top[r] = top.best_class;
    out.faulty |= uint64_t{faulty} << r;
    if constexpr (kSecond) out.near_ties |= uint64_t{top.is_near_tie(margins[r])} << r;
    if (faulty) continue;
    const int64_t k = chosen != nullptr ? chosen[r] : top.best_class;
    out.score[r] =
        score_of(units_of(row[k], top.best), unit_sum_of_row<Lanes>(row, classes, top.best));
  }
}

// The rows [first, first + kWidth) of a block; `count` of them are there.
template <class Lanes, bool kSecond>
void score_turned_rows(const float* logits, int64_t count, int64_t first, int64_t classes,
                       const float* end, const int64_t* chosen,
                       [[maybe_unused]] const float* margins, RowBlock& out) {
  using Float = typename Lanes::Float;
  using Index = typename Lanes::Index;
  const TurnedRows<Lanes> turned(logits, count, classes, end);
  alignas(64) float columns[kFewClassesToScore * Lanes::kWidth];
  LaneTops<Lanes, kSecond> tops;
  turned.for_each_class([&](int64_t k, Float x) {
    Lanes::store(columns + k * Lanes::kWidth, x);
    tops.check(x);
    tops.see(x, Index(static_cast<int32_t>(k)));
  });
  typename Lanes::UnitSum sum;
  for (int64_t k = 0; k < classes; ++k) {
    sum.add(scaled_exp<Lanes>(Lanes::load(columns + k * Lanes::kWidth) - tops.best));
  }
  Lanes::store(out.top + first, tops.best_class);
  const uint32_t faulty = tops.faulty();
  out.faulty |= uint64_t{faulty} << first;
  if constexpr (kSecond) out.near_ties |= uint64_t{tops.near_ties(margins + first)} << first;
  double sums[Lanes::kWidth];
  float best[Lanes::kWidth];
  sum.store(sums);
  Lanes::store(best, tops.best);
  for (int64_t r = 0; r < Lanes::kWidth; ++r) {
    double units = 0x1p32;  // the largest logit's
    if (chosen != nullptr && r < count && (faulty >> r & 1) == 0) {
      const float x = columns[chosen[first + r] * Lanes::kWidth + r] - best[r];
      units = static_cast<double>(exp_units(x));
    }
    out.score[first + r] = units / sums[r];  // as score_of: whole numbers below 2^53 in both
  }
}

template <class Lanes, bool kSecond, class Real>
void score_rows_with(const Real* logits, int64_t rows, int64_t classes,
                     [[maybe_unused]] const Real* end, const int64_t* chosen, const Real* margins,
                     RowBlock& out) {
  out.faulty = out.near_ties = 0;
  if constexpr (sizeof(Real) == sizeof(float)) {
    if (classes <= kFewClassesToScore) {
      for (int64_t r = 0; r < rows; r += Lanes::kWidth) {
        score_turned_rows<Lanes, kSecond>(logits + r * classes, rows - r, r, classes, end, chosen,
                                          margins, out);
      }
      return;
    }
  }
  score_long_rows<Lanes, kSecond>(logits, rows, classes, chosen, margins, out);
}

template <class Lanes, class Real>
void score_rows(const Real* logits, int64_t rows, int64_t classes, const Real* end,
                const int64_t* chosen, const Real* margins, RowBlock& out) {
  if (margins != nullptr) {
    score_rows_with<Lanes, true>(logits, rows, classes, end, chosen, margins, out);
  } else {
    score_rows_with<Lanes, false>(logits, rows, classes, end, chosen, margins, out);
  }
}

}  // namespace certcal
