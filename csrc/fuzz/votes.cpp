// SPDX-License-Identifier: MIT
// Votes and score histograms of logits from raw bytes: every type, path and thread count against the definition.
#include "../cpu/votes.hpp"

#include <algorithm>
#include <memory>

#include "../core/fixed_point.hpp"
#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "fuzz.hpp"

using namespace certcal;

namespace certcal_fuzz {
namespace {

struct Shape {
  int64_t batch, draws, classes, bins;
  int64_t rows() const { return batch * draws; }
};

struct Counted {
  std::vector<int64_t> counts, histogram, sums, faults;
  std::vector<uint8_t> near_ties;

  explicit Counted(const Shape& s)
      : counts(static_cast<size_t>(s.batch * s.classes), 0),
        histogram(static_cast<size_t>(s.batch * s.bins), 0),
        sums(static_cast<size_t>(s.batch * 2), 0),
        faults(kFaultWords, 0),
        near_ties(static_cast<size_t>(s.rows()), 0) {}
  bool operator==(const Counted& o) const {
    return counts == o.counts && histogram == o.histogram && sums == o.sums && faults == o.faults &&
           near_ties == o.near_ties;
  }
};

struct Ask {
  Shape shape;
  std::vector<double> margins;  // of each image
  const int64_t* classes;       // of each image, or null
  bool near_ties;
};

template <class Stored>
Counted defined(const Stored* logits, const Ask& ask) {
  using Real = WideOf<Stored>;
  const Shape& s = ask.shape;
  Counted out(s);
  for (int64_t line = 0; line < s.rows(); ++line) {
    std::vector<Real> row;
    for (int64_t k = 0; k < s.classes; ++k) row.push_back(widened(logits[line * s.classes + k]));
    const auto any = [&](auto is) { return std::any_of(row.begin(), row.end(), is); };
    if (any([](Real x) { return std::isnan(x); })) {
      ++out.faults[kNanRows];
      continue;
    }
    if (any([](Real x) { return std::isinf(x); })) {
      ++out.faults[kInfiniteRows];
      continue;
    }
    const int64_t b = line / s.draws;
    const int64_t top = std::max_element(row.begin(), row.end()) - row.begin();
    const Real best = row[static_cast<size_t>(top)];
    Real second = -std::numeric_limits<Real>::infinity();
    for (int64_t k = 0; k < s.classes; ++k) {
      if (k != top) second = std::max(second, row[static_cast<size_t>(k)]);
    }
    if (ask.near_ties && best - second < static_cast<Real>(ask.margins[static_cast<size_t>(b)])) {
      out.near_ties[static_cast<size_t>(line)] = 1;
    } else {
      ++out.counts[static_cast<size_t>(b * s.classes + top)];
    }
    uint64_t sum = 0;
    const auto units = [&](int64_t k) {
      return exp_units(static_cast<float>(row[static_cast<size_t>(k)] - best));
    };
    for (int64_t k = 0; k < s.classes; ++k) sum += units(k);
    const double score = score_of(units(ask.classes != nullptr ? ask.classes[b] : top), sum);
    CERTCAL_HOLDS(score >= 0 && score <= 1);
    ++out.histogram[static_cast<size_t>(b * s.bins + score_bin(score, static_cast<int>(s.bins)))];
    const int64_t q = fixed_floor(score);
    out.sums[static_cast<size_t>(2 * b)] += q >> kLowBits;
    out.sums[static_cast<size_t>(2 * b + 1)] += q & kLowMask;
  }
  return out;
}

template <class Stored>
void run(Input& input, const Ask& ask, int threads) {
  const Shape& s = ask.shape;
  const auto size = static_cast<size_t>(s.rows() * s.classes);
  // Exactly as large as the logits, so that the sanitizer sees a vector that reads beyond them.
  const std::unique_ptr<Stored[]> logits(new Stored[size]);
  for (size_t k = 0; k < size; ++k) {
    const uint8_t kind = input.byte();
    if (kind < 32) {
      logits[k] = input.raw<Stored>();
    } else if constexpr (std::is_floating_point_v<Stored>) {
      logits[k] = static_cast<Stored>(kind - 128) / 8;
    } else {
      round_to(static_cast<float>(kind - 128) / 8, logits[k]);
    }
  }
  const Counted expected = defined(logits.get(), ask);
  for (const SimdPath path : available_simd_paths()) {
    Counted both(s), apart(s);
    uint8_t* marks = ask.near_ties ? both.near_ties.data() : nullptr;
    count_votes_and_scores_cpu(logits.get(), ask.classes, s.batch, s.draws, s.classes, s.bins,
                               ask.margins.data(), both.counts.data(), marks, both.histogram.data(),
                               both.sums.data(), both.faults.data(), threads, path);
    CERTCAL_HOLDS(both == expected);
    marks = ask.near_ties ? apart.near_ties.data() : nullptr;
    count_votes_cpu(logits.get(), s.batch, s.draws, s.classes, ask.margins.data(),
                    apart.counts.data(), marks, apart.faults.data(), threads, path);
    std::vector<int64_t> faults(kFaultWords, 0);
    score_histogram_cpu(logits.get(), ask.classes, s.batch, s.draws, s.classes, s.bins,
                        apart.histogram.data(), apart.sums.data(), faults.data(), threads, path);
    CERTCAL_HOLDS(apart == expected && faults == expected.faults);
  }
}

}  // namespace

void votes(const uint8_t* data, size_t size) {
  Input input(data, size);
  const uint8_t type = input.byte(), long_rows = input.byte();
  Ask ask{};
  ask.shape.batch = input.from(1, 3);
  ask.shape.draws = input.from(1, 20);
  ask.shape.classes = long_rows % 8 == 0 ? input.from(1, 200) : input.from(1, 20);
  if (long_rows == 16) ask.shape.classes += 250;
  ask.shape.bins = input.from(1, 20);
  ask.near_ties = input.flag();
  for (int64_t b = 0; b < ask.shape.batch; ++b) {
    const double margin = input.flag() ? std::fabs(input.raw<double>()) : input.unit();
    ask.margins.push_back(std::isfinite(margin) ? margin : 0.0);
  }
  std::vector<int64_t> classes;
  for (int64_t b = 0; b < ask.shape.batch; ++b) {
    classes.push_back(input.from(0, ask.shape.classes - 1));
  }
  ask.classes = input.flag() ? classes.data() : nullptr;
  const int threads = static_cast<int>(input.from(1, 3));
  switch (type % 4) {
    case 0:
      return run<float>(input, ask, threads);
    case 1:
      return run<double>(input, ask, threads);
    case 2:
      return run<Float16>(input, ask, threads);
    default:
      return run<BFloat16>(input, ask, threads);
  }
}

}  // namespace certcal_fuzz
