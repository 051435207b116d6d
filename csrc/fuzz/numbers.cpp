// SPDX-License-Identifier: MIT
// The small functions that everything rests on: fixed point, means, half precision, Phi, exp, Philox, top two.
#include <algorithm>

#include "../core/fixed_point.hpp"
#include "../core/half.hpp"
#include "../core/normal_cdf.hpp"
#include "../core/philox.hpp"
#include "../core/softmax.hpp"
#include "../core/votes.hpp"
#include "../core/wide_int.hpp"
#include "../cpu/cdf_table.hpp"
#include "fuzz.hpp"

using namespace certcal;

namespace certcal_fuzz {
namespace {

void check_fixed_point(Input& input) {
  const double x = input.unit(), y = input.unit();
  const int64_t below = fixed_floor(x), above = fixed_ceil(x);
  const double exact =
      std::ldexp(x, kFractionBits);  // a power of two: no rounding, but for subnormals
  CERTCAL_HOLDS(0 <= below && below <= above && above <= kOne && above - below <= 1);
  CERTCAL_HOLDS(static_cast<double>(below) <= exact && exact <= static_cast<double>(above));
  CERTCAL_HOLDS((below == above) == (std::floor(exact) == exact));
  CERTCAL_HOLDS(x > y || (below <= fixed_floor(y) && above <= fixed_ceil(y)));
  for (const int64_t q : {below, above}) {
    const WideInt square = static_cast<WideInt>(q) * q;
    CERTCAL_HOLDS(fixed_square_ceil(q) == (square + kOne - 1) / kOne);
  }
  const int64_t times = static_cast<int64_t>(input.raw<uint64_t>() % (uint64_t{1} << 36));
  SplitSum sum{0, 0};
  sum.add(above, times);
  CERTCAL_HOLDS(join_words(sum.high, sum.low) == static_cast<WideInt>(above) * times);
}

void check_mean(Input& input) {
  const int64_t rows = 1 + static_cast<int64_t>(input.raw<uint64_t>() % (uint64_t{1} << 36));
  const WideInt most = static_cast<WideInt>(rows) * kOne;
  WideInt total = join_words(static_cast<int64_t>(input.raw<uint64_t>() >> 2), input.byte());
  total = total % (most + 1);
  const double mean = mean_rounded_up(total, rows);
  CERTCAL_HOLDS(mean >= 0 && mean <= 1);
  // total / (2^52 rows) <= mean = m 2^e, in whole numbers; and no smaller double will do.
  const auto reaches = [&](double q) {
    int e;
    const auto m = static_cast<int64_t>(std::ldexp(std::frexp(q, &e), 53));
    WideInt left = static_cast<WideInt>(m) * rows, right = total;
    const int shift = 1 - e;  // m rows >= total 2^(1 - e)
    return shift >= 0 ? left >= right << shift : left << -shift >= right;
  };
  if (total > 0) {
    CERTCAL_HOLDS(reaches(mean));
    CERTCAL_HOLDS(!reaches(std::nextafter(mean, 0.0)));
  } else {
    CERTCAL_HOLDS(mean == 0);
  }
}

// The nearest of all values, ties to the one with an even last bit.
template <class Half>
void check_half(float x) {
  Half rounded;
  round_to(x, rounded);
  const float back = widened(rounded);
  CERTCAL_HOLDS(std::isnan(x) == std::isnan(back));
  if (std::isnan(x)) return;
  CERTCAL_HOLDS(std::signbit(x) == std::signbit(back));
  Half again;
  round_to(back, again);
  CERTCAL_HOLDS(again.bits == rounded.bits);
  if (std::isinf(back)) return;
  for (const int step : {-1, 1}) {
    const Half other{static_cast<uint16_t>(rounded.bits + step)};
    const float wide = widened(other);
    if (std::isnan(wide) || std::isinf(wide) || std::signbit(wide) != std::signbit(x)) continue;
    const double here = std::fabs(static_cast<double>(back) - x);
    const double there = std::fabs(static_cast<double>(wide) - x);
    CERTCAL_HOLDS(here < there || (here == there && (rounded.bits & 1) == 0));
  }
}

void check_phi(Input& input) {
  const double x = input.raw<double>(), z = (input.unit() - 0.5) * 18.0;
  for (const double at : {x, z}) {
    const double below = normal_cdf_below(at, kNormalCdfTable);
    const double above = normal_cdf_above(at, kNormalCdfTable);
    CERTCAL_HOLDS(0 <= below && below <= above && above <= 1);
    if (std::isnan(at)) {
      CERTCAL_HOLDS(below == 0 && above == 1);
      continue;
    }
    const long double exact = 0.5L * std::erfc(-static_cast<long double>(at) * std::sqrt(0.5L));
    CERTCAL_HOLDS(below <= exact && exact <= above);
    CERTCAL_HOLDS(above - below <= 4 * kCdfSlack);
  }
  const float argument = -std::fabs(input.raw<float>());
  const uint64_t units = exp_units(argument);
  CERTCAL_HOLDS(units <= uint64_t{1} << 32);
  // Of neighbours the larger may have fewer units, but by no more than both are off from exp.
  const uint64_t next = exp_units(std::nextafterf(argument, -INFINITY));
  CERTCAL_HOLDS(std::isnan(argument) || next <= units + (units >> 22) + 1);
}

void check_philox(Input& input) {
  const uint64_t sample = input.raw<uint64_t>(), seed = input.raw<uint64_t>();
  const uint32_t block = input.raw<uint32_t>(), draw = input.raw<uint32_t>();
  const PhiloxKey key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  PhiloxBlock<uint32_t> words =
      PhiloxOfBlocks<uint32_t>(block, sample, key).counter(PhiloxOfDraw(draw, sample, key));
  for (int r = kPhiloxSharedRounds; r < kPhiloxRounds; ++r) {
    words = philox_round(words, key.after(r));
  }
  const PhiloxBlock<uint32_t> expected =
      philox4x32_10(PhiloxBlock<uint32_t>{block, draw, static_cast<uint32_t>(sample),
                                          static_cast<uint32_t>(sample >> 32)},
                    key);
  CERTCAL_HOLDS(words.w0 == expected.w0 && words.w1 == expected.w1 && words.w2 == expected.w2 &&
                words.w3 == expected.w3);
}

void check_top_two(Input& input) {
  std::vector<float> row;
  const int64_t classes = input.from(1, 12), cut = input.from(0, classes);
  for (int64_t k = 0; k < classes; ++k) {
    const float x = input.flag() ? input.raw<float>() : static_cast<float>(input.byte());
    row.push_back(is_finite(x) ? x : 0.0f);
  }
  TopTwo<float> whole, first, second;
  for (int64_t k = 0; k < classes; ++k) {
    whole.see(row[static_cast<size_t>(k)], k);
    (k < cut ? first : second).see(row[static_cast<size_t>(k)], k);
  }
  if (cut > 0 && cut < classes) {
    first.merge(second);
    CERTCAL_HOLDS(first.best == whole.best && first.second == whole.second &&
                  first.best_class == whole.best_class);
  }
  CERTCAL_HOLDS(whole.best_class == std::max_element(row.begin(), row.end()) - row.begin());
  std::sort(row.rbegin(), row.rend());
  CERTCAL_HOLDS(whole.best == row[0] && (classes == 1 || whole.second == row[1]));
}

}  // namespace

void numbers(const uint8_t* data, size_t size) {
  Input input(data, size);
  switch (input.byte() % 6) {
    case 0:
      return check_fixed_point(input);
    case 1:
      return check_mean(input);
    case 2: {
      const float x = input.flag() ? input.raw<float>() : widened(Float16{input.raw<uint16_t>()});
      check_half<Float16>(x);
      return check_half<BFloat16>(x);
    }
    case 3:
      return check_phi(input);
    case 4:
      return check_philox(input);
    default:
      return check_top_two(input);
  }
}

}  // namespace certcal_fuzz
