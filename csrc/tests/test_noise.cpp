// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "../core/normal.hpp"
#include "../cpu/noise.hpp"
#include "../cpu/noise_kernel.hpp"
#include "support.hpp"

using namespace certcal;
using certcal_tests::kEdgeSizes;
using certcal_tests::Random;
using certcal_tests::same_bits;

namespace {

struct Images {
  std::vector<float> pixels;
  std::vector<int64_t> sample_ids;
  int64_t elements;

  Images(int64_t batch, int64_t elements_) : elements(elements_) {
    Random random(static_cast<uint64_t>(elements_) + 11);
    for (int64_t k = 0; k < batch * elements_; ++k) {
      pixels.push_back(static_cast<float>(random.between(-2.0, 2.0)));
    }
    for (int64_t b = 0; b < batch; ++b) {
      sample_ids.push_back(b == 1 ? int64_t{5} << 40 : -3 - b);
    }
  }
  int64_t batch() const { return static_cast<int64_t>(sample_ids.size()); }
};

constexpr float kSigma = 0.37f;
constexpr uint64_t kSeed = 0xFEDCBA9876543210u;
constexpr float kGuard = 12345.0f;

// The definition, one element at a time.
std::vector<float> reference(const Images& images, uint32_t first_draw, int64_t draws) {
  std::vector<float> out;
  for (int64_t b = 0; b < images.batch(); ++b) {
    for (int64_t d = 0; d < draws; ++d) {
      for (int64_t e = 0; e < images.elements; ++e) {
        const NormalBlock<float> z = normal_block<float>(
            static_cast<uint32_t>(e / 4), first_draw + static_cast<uint32_t>(d),
            static_cast<uint64_t>(images.sample_ids[static_cast<size_t>(b)]), PhiloxKey::of(kSeed));
        const float parts[4] = {z.z0, z.z1, z.z2, z.z3};
        out.push_back(perturb(images.pixels[static_cast<size_t>(b * images.elements + e)], kSigma,
                              parts[e % 4]));
      }
    }
  }
  return out;
}

// `shift` moves the output off its natural alignment; what lies around it must stay untouched.
std::vector<float> noisy(const Images& images, uint32_t first_draw, int64_t draws, int threads,
                         SimdPath path, size_t shift = 0) {
  const size_t size = static_cast<size_t>(images.batch() * draws * images.elements);
  std::vector<float> out(size + shift + 17, kGuard);
  add_noise_cpu(images.pixels.data(), images.sample_ids.data(), kSigma, kSeed, images.batch(),
                images.elements, first_draw, draws, out.data() + shift, threads, path);
  for (size_t k = 0; k < shift; ++k) CHECK(out[k] == kGuard);
  for (size_t k = shift + size; k < out.size(); ++k) CHECK(out[k] == kGuard);
  const auto begin = out.begin() + static_cast<std::ptrdiff_t>(shift);
  return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(size));
}

}  // namespace

TEST_CASE(
    "every path gives the bits of the definition, for every size, thread count and alignment") {
  for (const SimdPath path : available_simd_paths()) {
    CAPTURE(simd_path_name(path));
    for (const int64_t elements : kEdgeSizes) {
      CAPTURE(elements);
      const Images images(2, elements);
      const std::vector<float> expected = reference(images, 41, 3);
      for (const int threads : {1, 2, 3, 8}) {
        REQUIRE(same_bits(noisy(images, 41, 3, threads, path), expected));
      }
      REQUIRE(same_bits(noisy(images, 41, 3, 1, path, 1), expected));
      REQUIRE(same_bits(noisy(images, 41, 3, 2, path, 3), expected));
    }
  }
}

TEST_CASE("work that is large enough for several threads gives the same bits") {
  const Images wide(1, 200003);
  const Images many(2, 65);
  const std::vector<float> expected_wide = reference(wide, 0, 3);
  const std::vector<float> expected_many = reference(many, 0, 4001);
  for (const SimdPath path : available_simd_paths()) {
    CAPTURE(simd_path_name(path));
    for (const int threads : {1, 2, 5}) {
      REQUIRE(same_bits(noisy(wide, 0, 3, threads, path), expected_wide));
      REQUIRE(same_bits(noisy(many, 0, 4001, threads, path), expected_many));
    }
  }
}

TEST_CASE("draws may be taken in any pieces, and their index wraps at 2^32") {
  const Images images(1, 257);
  for (const SimdPath path : available_simd_paths()) {
    CAPTURE(simd_path_name(path));
    const uint32_t first = 0xFFFFFFFCu;
    const std::vector<float> whole = noisy(images, first, 7, 2, path);
    for (int64_t cut = 0; cut <= 7; ++cut) {
      std::vector<float> pieces = noisy(images, first, cut, 1, path);
      const std::vector<float> rest =
          noisy(images, first + static_cast<uint32_t>(cut), 7 - cut, 3, path);
      pieces.insert(pieces.end(), rest.begin(), rest.end());
      REQUIRE(same_bits(pieces, whole));
    }
  }
}

TEST_CASE("an image may be computed in any pieces that begin at a Philox block, for any draws") {
  const int64_t elements = 611;
  const Images images(1, elements);
  std::vector<std::pair<std::string, NoiseFunction<float>>> functions = {
      {"scalar", noise_rows_scalar<float>}};
#ifdef CERTCAL_X86
  for (const SimdPath path : available_simd_paths()) {
    if (path == SimdPath::kAvx2) functions.emplace_back("avx2", noise_rows_avx2<float>);
    if (path == SimdPath::kAvx512) functions.emplace_back("avx512", noise_rows_avx512<float>);
  }
#endif
  for (int64_t draws = 1; draws <= kMostRows; ++draws) {
    const std::vector<float> expected = reference(images, 9, draws);
    for (const auto& [name, write] : functions) {
      CAPTURE(name);
      for (int64_t cut = 0; cut <= elements; cut += draws < 3 ? 4 : 68) {
        std::vector<float> out(static_cast<size_t>(draws * elements), kGuard);
        NoiseRows rows{images.pixels.data(),
                       kSigma,
                       kSeed,
                       static_cast<uint64_t>(images.sample_ids[0]),
                       9,
                       draws,
                       0,
                       cut,
                       elements};
        write(rows, out.data());
        rows.image += cut;
        rows.begin = cut;
        rows.size = elements - cut;
        write(rows, out.data() + cut);
        REQUIRE(same_bits(out, expected));
      }
    }
  }
}

TEST_CASE("sigma 0 gives the image back; another seed, sample or draw gives other noise") {
  const std::vector<float> image(64, 0.0f);
  const auto draw = [&](float sigma, uint64_t seed, int64_t id, uint32_t index) {
    std::vector<float> out(64);
    add_noise_cpu(image.data(), &id, sigma, seed, 1, 64, index, 1, out.data(), 1,
                  available_simd_paths().front());
    return out;
  };
  CHECK(draw(0.0f, 1, 2, 3) == image);
  const std::vector<float> noise = draw(1.0f, 1, 2, 3);
  CHECK(noise == draw(1.0f, 1, 2, 3));
  for (const auto& other :
       {draw(1.0f, 1 + (uint64_t{1} << 32), 2, 3), draw(1.0f, 2, 2, 3),
        draw(1.0f, 1, 2 + (int64_t{1} << 32), 3), draw(1.0f, 1, 3, 3), draw(1.0f, 1, 2, 4)}) {
    int equal = 0;
    for (size_t k = 0; k < 64; ++k) equal += other[k] == noise[k] ? 1 : 0;
    CHECK(equal == 0);
  }
}
