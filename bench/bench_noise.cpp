// SPDX-License-Identifier: MIT
// add_noise: 3 x 32 x 32 images, many draws, float32 and bfloat16, every SIMD path that this processor has, and CUDA.
//
// Bytes: each draw of an element is written once, 4 or 2 bytes; each image is read once. (A store that is not streaming makes the
// processor read the line first; that traffic is not counted as ours.)
//
// Operations per element, integer ones included, fma as two (core/philox.hpp, core/normal.hpp, core/polynomials.hpp):
//   Philox, 4 words a block:   10 rounds x (2 multiplications to 64 bits + 4 exclusive or) / 4          = 15
//   Box-Muller, 2 normals:     radius 35 (8 fma of the logarithm, its reduction, a square root),
//                              angle 37 (3 + 3 fma of sine and cosine, reduction, signs, products)  / 2 = 36
//   x + sigma z                                                                                         =  2
//   rounding to bfloat16                                                                                =  1
// The key schedule is the same for all elements and not counted.
#include <cmath>

#include "../csrc/core/half.hpp"
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

template <class Value>
struct Noise {
  int64_t batch, draws;
  std::vector<float> images;
  std::vector<int64_t> ids;
  std::vector<Value> out;

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
    const double rounding = sizeof(Value) == 4 ? 0 : 1;
    return {static_cast<double>(sizeof(Value)) * written + 4 * static_cast<double>(images.size()),
            (kOperationsPerElement + rounding) * written};
  }
};

// The Box-Muller transform of the same words in double, from the C library.
double reference(const Noise<float>& noise, int64_t b, int64_t d, int64_t element) {
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
void check_reference(const Noise<float>& noise, const std::string& path) {
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

template <class Value>
std::string type_name() {
  return sizeof(Value) == 4 ? "float32" : "bfloat16";
}

template <class Value>
std::string shape_of(const Noise<Value>& noise) {
  return "noise/" + type_name<Value>() + "/" + std::to_string(noise.batch) + "x3x32x32/draws_" +
         std::to_string(noise.draws);
}

template <class Value>
void require_bits(const std::vector<Value>& actual, const std::vector<Value>& expected,
                  const std::string& path) {
  require(actual.size() == expected.size() &&
              std::memcmp(actual.data(), expected.data(), sizeof(Value) * expected.size()) == 0,
          "noise, " + type_name<Value>() + ", the bits of " + path);
}

// `expected`: what two samples and 33 draws give, rounded.
template <class Value>
void add_type(const std::vector<Value>& expected, bool on_cuda) {
  const std::vector<certcal::SimdPath> paths = certcal::available_simd_paths();
  Noise<Value> small(2, 33);
  for (const certcal::SimdPath path : paths) {
    for (const int threads : thread_counts()) {
      std::fill(small.out.begin(), small.out.end(), Value{});
      small.run(threads, path);
      require_bits(small.out, expected, certcal::simd_path_name(path));
    }
  }
  // In float32 12 MB, which a large last-level cache holds, and 123 MB, which it does not.
  for (const int64_t draws : {1000, 10000}) {
    const auto noise = std::make_shared<Noise<Value>>(1, draws);
    for (const certcal::SimdPath path : paths) {
      if (draws > 1000 && path == certcal::SimdPath::kScalar) continue;  // seconds, and no news
      add_cpu(shape_of(*noise) + "/" + certcal::simd_path_name(path), noise->work(),
              [=](int threads) { noise->run(threads, path); });
    }
  }

#ifdef CERTCAL_HAS_CUDA
  if (!on_cuda) return;
  const auto launch_of = [](const Noise<Value>& noise, const DeviceArray<Value>& out) {
    const DeviceArray<float> images(noise.images);
    const DeviceArray<int64_t> ids(noise.ids);
    const int64_t batch = noise.batch, draws = noise.draws;
    return [=](cudaStream_t stream) {
      return certcal::launch_add_noise(images.data(), ids.data(), kSigma, kSeed, batch, kElements,
                                       0, draws, out.data(), stream);
    };
  };
  const DeviceArray<Value> small_out(expected.size());
  check(launch_of(small, small_out)(nullptr));
  require_bits(small_out.on_host(), expected, "CUDA");
  for (const int64_t batch : {1, 10}) {
    const Noise<Value> noise(batch, 10000);
    add_cuda(shape_of(noise), noise.work(), launch_of(noise, DeviceArray<Value>(noise.out.size())));
  }
#else
  (void)on_cuda;
#endif
}

void add_all(bool on_cuda) {
  Noise<float> small(2, 33);
  small.run(1, certcal::SimdPath::kScalar);
  check_reference(small, "scalar");
  std::vector<certcal::BFloat16> rounded(small.out.size());
  for (size_t i = 0; i < rounded.size(); ++i) certcal::round_to(small.out[i], rounded[i]);
  add_type(small.out, on_cuda);
  add_type(rounded, on_cuda);
}

}  // namespace

int main(int argc, char** argv) { return certcal_bench::run(argc, argv, add_all); }
