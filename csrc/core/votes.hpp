// SPDX-License-Identifier: MIT
// What one row of logits votes for.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "host_device.hpp"

namespace certcal {

// Classes are numbered by an int on the device.
inline constexpr int64_t kMostClasses = std::numeric_limits<int32_t>::max() / 2;

// The two largest logits of a row seen so far. Rows may be scanned in pieces: merge() joins two of them.
template <class Real, class Index = int64_t>
struct TopTwo {
  Real best = -std::numeric_limits<Real>::infinity();
  Real second = -std::numeric_limits<Real>::infinity();
  Index best_class = 0;

  // Classes must come in increasing order: the strict comparison then keeps the lowest index among equals.
  CERTCAL_HD void see(Real x, Index k) {
    const bool better = x > best;
    second = better ? best : (x > second ? x : second);
    best = better ? x : best;
    best_class = better ? k : best_class;
  }

  CERTCAL_HD void merge(const TopTwo& other) {
    const bool other_wins =
        other.best > best || (other.best == best && other.best_class < best_class);
    const Real loser = other_wins ? best : other.best;
    const Real runner_up = other_wins ? other.second : second;
    second = loser > runner_up ? loser : runner_up;
    best = other_wins ? other.best : best;
    best_class = other_wins ? other.best_class : best_class;
  }

  // Whether the vote could differ between two evaluations whose logits agree to half of `margin`.
  CERTCAL_HD bool is_near_tie(Real margin) const { return best - second < margin; }
};

// A variable, since device code may read a constant but not call the host's function.
template <class Real>
inline constexpr Real kLargest = std::numeric_limits<Real>::max();

template <class Real>
CERTCAL_HD bool is_finite(Real x) {
  return (x < 0 ? -x : x) <= kLargest<Real>;
}

// Rows that cannot vote, by reason.
enum FaultWord : int { kNanRows = 0, kInfiniteRows = 1, kFaultWords = 2 };

}  // namespace certcal
