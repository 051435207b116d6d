// SPDX-License-Identifier: MIT
// Noise of raw seeds, sample ids, draws, sigmas and pixels: every type, path, layout and thread count.
#include "../cpu/noise.hpp"

#include <memory>

#include "../core/normal.hpp"
#include "fuzz.hpp"

using namespace certcal;

namespace certcal_fuzz {
namespace {

// Which NaN comes out is left to the machine.
bool same(float a, float b) { return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)); }
bool same(Float16 a, Float16 b) { return a.bits == b.bits || same(widened(a), widened(b)); }
bool same(BFloat16 a, BFloat16 b) { return a.bits == b.bits || same(widened(a), widened(b)); }

struct Ask {
  int64_t batch, elements, channels, draws;
  uint32_t first_draw;
  uint64_t seed;
  float sigma;
  std::vector<int64_t> ids;
};

// Where element e of an image lies.
size_t place(const Ask& ask, int64_t e) {
  const int64_t pixels = ask.elements / ask.channels;
  return static_cast<size_t>((e % pixels) * ask.channels + e / pixels);
}

template <class Value>
void run(Input& input, const Ask& ask, int threads) {
  const auto size = static_cast<size_t>(ask.batch * ask.elements);
  const std::unique_ptr<float[]> images(new float[size]);
  for (size_t k = 0; k < size; ++k) {
    const uint8_t kind = input.byte();
    images[k] = kind < 16 ? input.raw<float>() : static_cast<float>(kind) / 255.0f;
  }
  const size_t total = size * static_cast<size_t>(ask.draws);
  std::vector<Value> expected(total);
  for (int64_t b = 0; b < ask.batch; ++b) {
    for (int64_t d = 0; d < ask.draws; ++d) {
      for (int64_t e = 0; e < ask.elements; ++e) {
        const NormalBlock<float> z = normal_block<float>(
            static_cast<uint32_t>(e / 4), ask.first_draw + static_cast<uint32_t>(d),
            static_cast<uint64_t>(ask.ids[static_cast<size_t>(b)]), PhiloxKey::of(ask.seed));
        const float parts[4] = {z.z0, z.z1, z.z2, z.z3};
        CERTCAL_HOLDS(std::fabs(parts[e % 4]) < 6.77f);
        const float x = images[static_cast<size_t>(b * ask.elements) + place(ask, e)];
        round_to(perturb(x, ask.sigma, parts[e % 4]),
                 expected[static_cast<size_t>((b * ask.draws + d) * ask.elements) + place(ask, e)]);
      }
    }
  }
  for (const SimdPath path : available_simd_paths()) {
    const std::unique_ptr<Value[]> out(new Value[total]);
    add_noise_cpu(images.get(), ask.ids.data(), ask.sigma, ask.seed, ask.batch, ask.elements,
                  ask.first_draw, ask.draws, out.get(), threads, path, ask.channels);
    for (size_t k = 0; k < total; ++k) CERTCAL_HOLDS(same(out[k], expected[k]));
  }
}

}  // namespace

void noise(const uint8_t* data, size_t size) {
  Input input(data, size);
  Ask ask{};
  const uint8_t type = input.byte();
  ask.batch = input.from(1, 3);
  ask.channels = input.from(1, 4);
  ask.elements = ask.channels * (input.flag() ? input.from(1, 255) : input.from(1, 20));
  ask.draws = input.from(1, 9);
  const uint32_t first = input.raw<uint32_t>();
  const auto last = static_cast<uint32_t>(int64_t{0xFFFFFFFF} - ask.draws + 1);
  ask.first_draw = first < last ? first : last;
  ask.seed = input.raw<uint64_t>();
  ask.sigma = input.flag() ? input.raw<float>() : static_cast<float>(input.unit());
  for (int64_t b = 0; b < ask.batch; ++b) ask.ids.push_back(input.raw<int64_t>());
  const int threads = static_cast<int>(input.from(1, 3));
  switch (type % 3) {
    case 0:
      return run<float>(input, ask, threads);
    case 1:
      return run<Float16>(input, ask, threads);
    default:
      return run<BFloat16>(input, ask, threads);
  }
}

}  // namespace certcal_fuzz
