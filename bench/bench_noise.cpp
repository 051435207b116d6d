// SPDX-License-Identifier: MIT
// add_noise: 3 x 32 x 32 images, many draws, every SIMD path that this processor has, and CUDA.
//
// Bytes: each draw of an element is written once, 4 bytes; each image is read once. (A store that is not streaming makes the
// processor read the line first; that traffic is not counted as ours.)
//
// Operations per element, integer ones included, fma as two (core/philox.hpp, core/normal.hpp, core/polynomials.hpp):
//   Philox, 4 words a block:   10 rounds x (2 multiplications to 64 bits + 4 exclusive or) / 4          = 15
//   Box-Muller, 2 normals:     radius 35 (8 fma of the logarithm, its reduction, a square root),
//                              angle 37 (3 + 3 fma of sine and cosine, reduction, signs, products)  / 2 = 36
//   x + sigma z                                                                                         =  2
// The key schedule is the same for all elements and not counted.
#include <cmath>

#include "../csrc/core/normal.hpp"
#include "../csrc/cpu/noise.hpp"
#include "bench_common.hpp"

#ifdef CERTCAL_HAS_CUDA
#include "../csrc/cuda/noise.hpp"
#endif

namespace {

using namespace certcal_bench;

constexpr int64_t kElements = 3 * 32 * 32;
constexpr float kSigma = 0.25f;
constexpr uint64_t kSeed = 7;
constexpr double kOperationsPerElement = 15 + 36 + 2;

std::vector<float> images_of(int64_t batch) {
  Random random(1);
  std::vector<float> images(static_cast<size_t>(batch * kElements));
  for (float& x : images) x = static_cast<float>(random.unit());
  return images;
}

std::vector<int64_t> ids_of(int64_t batch) {
  std::vector<int64_t> ids;
  for (int64_t b = 0; b < batch; ++b) ids.push_back((int64_t{1} << 40) * b + 3);
  return ids;
}

struct Noise {
  int64_t batch, draws;
  std::vector<float> images;
  std::vector<int64_t> ids;
  std::vector<float> out;

  Noise(int64_t samples, int64_t count)
      : batch(samples),
        draws(count),
        images(images_of(samples)),
        ids(ids_of(samples)),
        out(static_cast<size_t>(samples * count * kElements)) {}

  void run(int threads, certcal::SimdPath path) {
    certcal::add_noise_cpu(images.data(), ids.data(), kSigma, kSeed, batch, kElements, 0, draws,
                           out.data(), threads, path);
  }

  Work work() const {
    const auto written = static_cast<double>(out.size());
    return {4 * (written + static_cast<double>(images.size())), kOperationsPerElement * written};
  }
};

// The Box-Muller transform of the same words in double, from the C library.
double reference(const Noise& noise, int64_t b, int64_t d, int64_t element) {
  const auto words = certcal::philox4x32_10(
      certcal::PhiloxBlock<uint32_t>{
          static_cast<uint32_t>(element / 4), static_cast<uint32_t>(d),
          static_cast<uint32_t>(noise.ids[static_cast<size_t>(b)]),
          static_cast<uint32_t>(static_cast<uint64_t>(noise.ids[static_cast<size_t>(b)]) >> 32)},
      static_cast<uint32_t>(kSeed), static_cast<uint32_t>(kSeed >> 32));
  const bool first_pair = element % 4 < 2;
  const double u = (static_cast<double>(first_pair ? words.w0 : words.w2) + 0.5) * 0x1p-32;
  const double turn = static_cast<double>(first_pair ? words.w1 : words.w3) * 0x1p-32;
  const double angle = 2 * std::acos(-1.0) * turn;
  const double z =
      std::sqrt(-2 * std::log(u)) * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
  return static_cast<double>(noise.images[static_cast<size_t>(b * kElements + element)]) +
         static_cast<double>(kSigma) * z;
}

// Errors of z near 1e-7 times sigma, and the last bit of a sum below 4. u is rounded to float, which next to u = 1 moves a
// small radius by up to 2^-12: there the tolerance is that of the definition.
void check_reference(const Noise& noise, const std::string& path) {
  for (int64_t b = 0; b < noise.batch; ++b) {
    for (int64_t d = 0; d < noise.draws; ++d) {
      for (int64_t e = 0; e < kElements; ++e) {
        const float x = noise.out[static_cast<size_t>((b * noise.draws + d) * kElements + e)];
        const double expected = reference(noise, b, d, e);
        require(std::abs(static_cast<double>(x) - expected) < 1e-4,
                "noise, " + path + ", element " + std::to_string(e));
      }
    }
  }
}

void add_all(bool on_cuda) {
  Noise small(2, 33);
  const std::vector<certcal::SimdPath> paths = certcal::available_simd_paths();
  small.run(1, certcal::SimdPath::kScalar);
  const std::vector<float> expected = small.out;
  check_reference(small, "scalar");
  for (const certcal::SimdPath path : paths) {
    for (const int threads : thread_counts()) {
      std::fill(small.out.begin(), small.out.end(), 0.0f);
      small.run(threads, path);
      require(std::memcmp(small.out.data(), expected.data(), 4 * expected.size()) == 0,
              "noise, the bits of " + certcal::simd_path_name(path));
    }
  }

  // 12 MB, which a large last-level cache holds, and 123 MB, which it does not.
  for (const int64_t draws : {1000, 10000}) {
    const auto noise = std::make_shared<Noise>(1, draws);
    for (const certcal::SimdPath path : paths) {
      add_cpu("noise/3x32x32/draws_" + std::to_string(draws) + "/" + certcal::simd_path_name(path),
              noise->work(), [=](int threads) { noise->run(threads, path); });
    }
  }

#ifdef CERTCAL_HAS_CUDA
  if (!on_cuda) return;
  const auto launch_of = [](const Noise& noise, const DeviceArray<float>& out) {
    const DeviceArray<float> images(noise.images);
    const DeviceArray<int64_t> ids(noise.ids);
    const int64_t batch = noise.batch, draws = noise.draws;
    return [=](cudaStream_t stream) {
      return certcal::launch_add_noise(images.data(), ids.data(), kSigma, kSeed, batch, kElements,
                                       0, draws, out.data(), stream);
    };
  };
  const DeviceArray<float> small_out(expected.size());
  check(launch_of(small, small_out)(nullptr));
  require(std::memcmp(small_out.on_host().data(), expected.data(), 4 * expected.size()) == 0,
          "noise, the bits of CUDA");
  // 123 MB and 1.2 GB.
  for (const int64_t batch : {1, 10}) {
    const Noise noise(batch, 10000);
    add_cuda("noise/" + std::to_string(batch) + "x3x32x32/draws_10000", noise.work(),
             launch_of(noise, DeviceArray<float>(noise.out.size())));
  }
#else
  (void)on_cuda;
#endif
}

}  // namespace

int main(int argc, char** argv) { return certcal_bench::run(argc, argv, add_all); }
