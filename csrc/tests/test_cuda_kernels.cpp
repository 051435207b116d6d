// SPDX-License-Identifier: MIT
// The CUDA kernels themselves, run on the host (cuda_on_host/cuda_runtime.h) and compared with their CPU twins, to the
// bit. A machine with a GPU runs the same comparison on the device (python_tests/test_cuda.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "../cpu/noise.hpp"
#include "../cpu/votes.hpp"
#include "../cuda/noise.cu"
#include "../cuda/votes.cu"
#include "support.hpp"

using namespace certcal;
using certcal_tests::Random;
using certcal_tests::same_bits;

namespace {

// One way to run the blocks and threads of a launch; results must not depend on it.
struct Shape {
  unsigned max_blocks;
  cuda_on_host::Order order;
  int processors;
};
const std::vector<Shape> kShapes = {{0xFFFFFFFFu, cuda_on_host::Order::kForward, 2},
                                    {2, cuda_on_host::Order::kReverse, 1},
                                    {0xFFFFFFFFu, cuda_on_host::Order::kRandom, 12}};

// Two of them, by turns: all take their time.
std::vector<Shape> two_shapes() {
  static size_t turn = 0;
  ++turn;
  return {kShapes[turn % 3], kShapes[(turn + 1) % 3]};
}

template <class Launch>
void run_in(const Shape& shape, const Launch& launch) {
  cuda_on_host::max_blocks = shape.max_blocks;
  cuda_on_host::order = shape.order;
  cuda_on_host::processors = shape.processors;
  const cudaError_t error = launch();
  cuda_on_host::max_blocks = 0xFFFFFFFFu;
  cuda_on_host::order = cuda_on_host::Order::kForward;
  cuda_on_host::processors = 2;
  REQUIRE(error == cudaSuccess);
}

bool is_nan(float x) { return x != x; }
bool is_nan(Float16 x) { return (x.bits & 0x7FFFu) > 0x7C00u; }
bool is_nan(BFloat16 x) { return (x.bits & 0x7FFFu) > 0x7F80u; }

template <class Real>
std::vector<Real> random_logits(Random& random, int64_t rows, int64_t classes) {
  std::vector<Real> logits;
  for (int64_t k = 0; k < rows * classes; ++k) {
    logits.push_back(static_cast<Real>(random.below(33) - 16) / 4);
  }
  const Real faults[] = {std::numeric_limits<Real>::quiet_NaN(),
                         std::numeric_limits<Real>::infinity(),
                         -std::numeric_limits<Real>::infinity()};
  for (int64_t line = random.below(3); line < rows; line += 1 + random.below(40)) {
    for (int k = 0; k < 1 + static_cast<int>(random.below(2)); ++k) {
      logits[static_cast<size_t>(line * classes + random.below(classes))] = faults[random.below(3)];
    }
  }
  return logits;
}

// The same in the type that they are stored in.
template <class Stored>
std::vector<Stored> stored_logits(Random& random, int64_t rows, int64_t classes) {
  if constexpr (std::is_same_v<Stored, WideOf<Stored>>) {
    return random_logits<Stored>(random, rows, classes);
  } else {
    std::vector<Stored> stored;
    for (const float x : random_logits<float>(random, rows, classes)) {
      stored.emplace_back();
      round_to(x, stored.back());
    }
    return stored;
  }
}

struct RowShape {
  int64_t batch, draws, classes;
};
// The last ones are those of the sampler: an image alone, many draws of one, some of each of several.
// Each width of thread group; tiles within one sample, over many samples, and with more words than shared memory holds.
const std::vector<RowShape> kRowShapes = {
    {0, 5, 3},     {5, 0, 3},     {1, 1, 1},    {1, 1, 2},      {31, 1, 2},
    {32, 1, 3},    {1, 33, 8},    {255, 3, 8},  {9, 1000, 4},   {256, 1, 9},
    {257, 2, 10},  {3, 701, 10},  {1, 513, 64}, {2, 31, 65},    {7, 33, 257},
    {300, 1, 33},  {2, 131, 100}, {1, 9, 4097}, {3, 1, 10001},  {1, 1, 10},
    {1, 1024, 10}, {10, 100, 10}, {1, 1, 1000}, {1, 250, 1000}, {5, 16, 1001}};

// Other margins for neighbours.
std::vector<double> margins_of(const RowShape& s) {
  std::vector<double> margins;
  for (int64_t b = 0; b < s.batch; ++b) margins.push_back(0.15 * static_cast<double>(b % 4));
  return margins;
}

template <class Real>
void check_votes(const RowShape& s, Random& random) {
  const auto logits = stored_logits<Real>(random, s.batch * s.draws, s.classes);
  const std::vector<double> margins = margins_of(s);
  for (const bool marks : {false, true}) {
    std::vector<int64_t> counts(static_cast<size_t>(s.batch * s.classes), 3), faults = {1, 2};
    std::vector<uint8_t> near_ties(static_cast<size_t>(s.batch * s.draws), 0);
    auto expected_counts = counts;
    auto expected_faults = faults;
    auto expected_ties = near_ties;
    count_votes_cpu(logits.data(), s.batch, s.draws, s.classes, margins.data(),
                    expected_counts.data(), marks ? expected_ties.data() : nullptr,
                    expected_faults.data(), 1);
    for (const Shape& shape : two_shapes()) {
      auto got_counts = counts;
      auto got_faults = faults;
      auto got_ties = near_ties;
      run_in(shape, [&] {
        return launch_count_votes(logits.data(), s.batch, s.draws, s.classes, margins.data(),
                                  got_counts.data(), marks ? got_ties.data() : nullptr,
                                  got_faults.data(), nullptr);
      });
      CHECK(got_counts == expected_counts);
      CHECK(got_faults == expected_faults);
      CHECK(got_ties == expected_ties);
    }
  }
}

// The scores alone, and beside the votes.
template <class Real>
void check_scores(const RowShape& s, int64_t bins, Random& random) {
  const auto logits = stored_logits<Real>(random, s.batch * s.draws, s.classes);
  const std::vector<double> margins = margins_of(s);
  std::vector<int64_t> chosen;
  for (int64_t b = 0; b < s.batch; ++b) chosen.push_back(random.below(s.classes));
  struct Words {
    std::vector<int64_t> histogram, sums, faults, counts;
    std::vector<uint8_t> near_ties;
    bool operator==(const Words& o) const {
      return histogram == o.histogram && sums == o.sums && faults == o.faults &&
             counts == o.counts && near_ties == o.near_ties;
    }
  };
  const Words start{std::vector<int64_t>(static_cast<size_t>(s.batch * bins), 3),
                    std::vector<int64_t>(static_cast<size_t>(s.batch * 2), 5),
                    {1, 2},
                    std::vector<int64_t>(static_cast<size_t>(s.batch * s.classes), 4),
                    std::vector<uint8_t>(static_cast<size_t>(s.batch * s.draws), 0)};
  for (const int64_t* classes :
       {static_cast<const int64_t*>(nullptr), static_cast<const int64_t*>(chosen.data())}) {
    Words alone = start;
    score_histogram_cpu(logits.data(), classes, s.batch, s.draws, s.classes, bins,
                        alone.histogram.data(), alone.sums.data(), alone.faults.data(), 1);
    Words both = start;
    count_votes_and_scores_cpu(logits.data(), classes, s.batch, s.draws, s.classes, bins,
                               margins.data(), both.counts.data(), both.near_ties.data(),
                               both.histogram.data(), both.sums.data(), both.faults.data(), 1);
    for (const Shape& shape : two_shapes()) {
      Words got = start;
      run_in(shape, [&] {
        return launch_score_histogram(logits.data(), classes, s.batch, s.draws, s.classes, bins,
                                      got.histogram.data(), got.sums.data(), got.faults.data(),
                                      nullptr);
      });
      CHECK(got == alone);
      got = start;
      run_in(shape, [&] {
        return launch_count_votes_and_scores(logits.data(), classes, s.batch, s.draws, s.classes,
                                             bins, margins.data(), got.counts.data(),
                                             got.near_ties.data(), got.histogram.data(),
                                             got.sums.data(), got.faults.data(), nullptr);
      });
      CHECK(got == both);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("add_noise_kernel gives the bits of add_noise_cpu", Value, float, Float16,
                   BFloat16) {
  struct NoiseShape {
    int64_t batch, elements, draws, channels;
  };
  const std::vector<NoiseShape> shapes = {
      {0, 4, 3, 1},     {2, 0, 3, 1},     {2, 4, 0, 1},     {1, 1, 1, 1},    {2, 3, 9, 1},
      {3, 4, 8, 1},     {2, 31, 17, 1},   {2, 32, 1, 1},    {1, 33, 7, 1},   {5, 255, 3, 1},
      {2, 256, 16, 1},  {1, 257, 100, 1}, {3, 3072, 11, 1}, {2, 3, 9, 3},    {2, 12, 9, 3},
      {2, 24, 1, 3},    {3, 27, 17, 3},   {2, 32, 5, 2},    {2, 32, 5, 4},   {3, 3072, 11, 3},
      {1, 771, 9, 3},   {2, 4, 9, 4},     {1, 48, 9, 16},   {1, 3072, 1, 3}, {1, 3072, 256, 3},
      {16, 3072, 4, 1}, {1, 150528, 2, 3}};
  Value guard;
  round_to(9.0f, guard);
  for (const NoiseShape& s : shapes) {
    CAPTURE(s.elements);
    CAPTURE(s.channels);
    Random random(30);
    // Both arrays start one value into their storage in the second round: then 16-byte access is not allowed.
    for (const size_t offset : {size_t{0}, size_t{1}}) {
      std::vector<float> images(static_cast<size_t>(s.batch * s.elements) + offset);
      for (float& x : images) x = static_cast<float>(random.between(-1.0, 1.0));
      std::vector<int64_t> ids;
      for (int64_t b = 0; b < s.batch; ++b) ids.push_back(static_cast<int64_t>(random.next()));
      const size_t size = static_cast<size_t>(s.batch * s.draws * s.elements);
      std::vector<Value> expected(size + offset + 8, guard);
      add_noise_cpu(images.data() + offset, ids.data(), 0.7f, 1234567890123u, s.batch, s.elements,
                    0xFFFFFFFEu, s.draws, expected.data() + offset, 1, SimdPath::kScalar,
                    s.channels);
      for (const Shape& shape : two_shapes()) {
        std::vector<Value> out(size + offset + 8, guard);
        run_in(shape, [&] {
          return launch_add_noise(images.data() + offset, ids.data(), 0.7f, 1234567890123u, s.batch,
                                  s.elements, 0xFFFFFFFEu, s.draws, out.data() + offset, nullptr,
                                  s.channels);
        });
        CHECK(same_bits(out, expected));
      }
    }
  }
}

// The vector kernels for one and three channels, and the kernel for all else.
TEST_CASE_TEMPLATE("an offset in memory moves the draws as first_draw does", Value, float, Float16,
                   BFloat16) {
  constexpr int64_t kDraws = 9;
  struct Layout {
    int64_t elements, channels;
  };
  for (const Layout layout : {Layout{32, 1}, Layout{48, 3}, Layout{30, 5}}) {
    CAPTURE(layout.channels);
    Random random(34);
    std::vector<float> images(static_cast<size_t>(2 * layout.elements));
    for (float& x : images) x = static_cast<float>(random.between(-1.0, 1.0));
    const std::vector<int64_t> ids = {3, int64_t{1} << 40};
    const size_t size = images.size() * kDraws;
    const auto drawn = [&](uint32_t first, const int64_t* offset) {
      std::vector<Value> out(size);
      run_in(kShapes[1], [&] {
        return launch_add_noise(images.data(), ids.data(), 0.7f, 5u, 2, layout.elements, first,
                                kDraws, out.data(), nullptr, layout.channels, offset);
      });
      return out;
    };
    const int64_t last = (int64_t{1} << 32) - kDraws;
    for (const int64_t first : {int64_t{0}, int64_t{7}, last}) {
      for (const int64_t to : {int64_t{0}, int64_t{6}, int64_t{0xFFFF0000}, last}) {
        std::vector<Value> expected(size);
        add_noise_cpu(images.data(), ids.data(), 0.7f, 5u, 2, layout.elements,
                      static_cast<uint32_t>(to), kDraws, expected.data(), 1, SimdPath::kScalar,
                      layout.channels);
        const int64_t offset = to - first;
        CHECK(same_bits(drawn(static_cast<uint32_t>(first), &offset), expected));
      }
      // No draws have these numbers.
      for (const int64_t offset :
           {-first - 1, last - first + 1, int64_t{1} << 32, -(int64_t{1} << 32),
            std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()}) {
        CAPTURE(offset);
        const std::vector<Value> out = drawn(static_cast<uint32_t>(first), &offset);
        CHECK(std::all_of(out.begin(), out.end(), [](Value x) { return is_nan(x); }));
      }
    }
  }
}

TEST_CASE_TEMPLATE("count_votes_kernel gives the counts of count_votes_cpu", Real, float, double,
                   Float16, BFloat16) {
  Random random(31);
  for (const RowShape& shape : kRowShapes) {
    CAPTURE(shape.batch);
    CAPTURE(shape.draws);
    CAPTURE(shape.classes);
    check_votes<Real>(shape, random);
  }
}

TEST_CASE_TEMPLATE("score_histogram_kernel gives the histogram of score_histogram_cpu", Real, float,
                   double, Float16, BFloat16) {
  Random random(32);
  for (const RowShape& shape : kRowShapes) {
    CAPTURE(shape.batch);
    CAPTURE(shape.draws);
    CAPTURE(shape.classes);
    for (const int64_t bins : {50, 1000}) check_scores<Real>(shape, bins, random);
  }
  check_scores<Real>({2, 131, 100}, 4096, random);
  check_scores<Real>({2, 3, 100000}, 4096, random);
}

// On a stream that nobody waits for, so that only the launch is looked at.
TEST_CASE("small launches are spread over the processors, large ones in few tiles") {
  cuda_on_host::processors = 132;
  cuda_on_host::Stream stream;
  const auto blocks_of_votes = [&](int64_t rows, int64_t classes) {
    REQUIRE(launch_count_votes<BFloat16>(nullptr, 1, rows, classes, nullptr, nullptr, nullptr,
                                         nullptr, &stream) == cudaSuccess);
    return cuda_on_host::last_blocks;
  };
  const auto blocks_of_noise = [&](int64_t batch, int64_t draws, int64_t channels) {
    REQUIRE(launch_add_noise<BFloat16>(nullptr, nullptr, 1.0f, 0, batch, 3072, 0, draws, nullptr,
                                       &stream, channels) == cudaSuccess);
    return cuda_on_host::last_blocks;
  };
  CHECK(blocks_of_votes(1024, 10) == 32);   // a pass of each block
  CHECK(blocks_of_votes(256, 1000) == 32);  // a row a warp
  CHECK(blocks_of_votes(4096, 1000) >= 3 * 132);
  CHECK(blocks_of_votes(400'000, 1000) <= kMaxBlocks);
  CHECK(blocks_of_votes(10'000'000, 10) <= 10'000'000 / (256 * 16) + 1);
  for (const int64_t channels : {1, 3}) {
    CHECK(blocks_of_noise(1, 1000, channels) >= 132);
    CHECK(blocks_of_noise(8, 10'000, channels) >= 4 * 132);
    CHECK(blocks_of_noise(1, 1, channels) >= 1);
  }
  stream.work.clear();
  cuda_on_host::processors = 2;
}

TEST_CASE("empty input launches nothing") {
  const int before = cuda_on_host::launches;
  CHECK(launch_add_noise<float>(nullptr, nullptr, 1.0f, 0, 0, 3, 0, 3, nullptr, nullptr) ==
        cudaSuccess);
  CHECK(launch_count_votes<float>(nullptr, 3, 0, 3, nullptr, nullptr, nullptr, nullptr, nullptr) ==
        cudaSuccess);
  CHECK(launch_score_histogram<double>(nullptr, nullptr, 0, 3, 3, 10, nullptr, nullptr, nullptr,
                                       nullptr) == cudaSuccess);
  CHECK(cuda_on_host::launches == before);
}

TEST_CASE("a sum in shared memory carries from its lower to its upper word") {
  Random random(33);
  SharedSum sum;
  sum.clear();
  int64_t expected = 0;
  for (int k = 0; k < 100000; ++k) {
    const int64_t value = random.below(int64_t{1} << (1 + random.below(45)));
    sum.add(value);
    expected += value;
    CERTCAL_REQUIRE(sum.value() == expected);
  }
}
