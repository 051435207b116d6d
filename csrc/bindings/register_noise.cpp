// SPDX-License-Identifier: MIT
#include <pybind11/stl.h>

#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "../core/philox.hpp"
#include "../cpu/noise.hpp"
#include "device.hpp"
#include "register.hpp"
#include "tensor_view.hpp"

#ifdef CERTCAL_HAS_CUDA
#include "../cuda/noise.hpp"
#endif

namespace certcal::bindings {
namespace {

constexpr int64_t kMaxDraws = int64_t{1} << 32;

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const PhiloxBlock<uint32_t> block =
      philox4x32_10(PhiloxBlock<uint32_t>{counter[0], counter[1], counter[2], counter[3]},
                    PhiloxKey{key[0], key[1]});
  return {block.w0, block.w1, block.w2, block.w3};
}

SimdPath parse_simd(const std::string& name) {
  const std::vector<SimdPath> paths = available_simd_paths();
  if (name == "auto") return paths.front();
  for (const SimdPath path : paths) {
    if (simd_path_name(path) == name) return path;
  }
  throw py::value_error("simd: expected 'auto' or one of simd_paths(), got '" + name + "'");
}

// Calls body with a pointer of the output's own type.
template <class Body>
void dispatch(const TensorView& out, const Body& body) {
  switch (out.of_any({DType::kFloat32, DType::kFloat16, DType::kBFloat16}).dtype()) {
    case DType::kFloat16:
      return body(out.data<Float16>());
    case DType::kBFloat16:
      return body(out.data<BFloat16>());
    default:
      return body(out.data<float>());
  }
}

// The word at `offset`, if with it the draws still are some that there are.
int64_t checked_offset(const TensorView& offset, int64_t first_draw, int64_t draws) {
  const int64_t value = *offset.data<const int64_t>();
  if (value < -first_draw || value > kMaxDraws - draws - first_draw) {
    throw py::value_error("draw_offset: expected draws within [0, 2^32), got " +
                          std::to_string(first_draw) + " + " + std::to_string(value) + " + " +
                          std::to_string(draws));
  }
  return value;
}

void add_noise(const py::object& images_object, const py::object& out_object, double sigma,
               uint64_t seed, const py::object& sample_ids_object, int64_t first_draw, int threads,
               uintptr_t stream, const std::string& simd, int64_t channels,
               const py::object& draw_offset_object) {
  const TensorView images(images_object, "images");
  images.of(DType::kFloat32).shaped({kAnySize, kAnySize});
  const int64_t batch = images.size(0), elements = images.size(1);
  const TensorView out(out_object, "out");
  out.shaped({batch, kAnySize, elements}).on(images).writable();
  const TensorView sample_ids(sample_ids_object, "sample_ids");
  sample_ids.of(DType::kInt64).shaped({batch}).on(images);
  const int64_t draws = out.size(1);
  if (first_draw < 0 || first_draw > kMaxDraws - draws) {
    throw py::value_error("first_draw: expected draws within [0, 2^32), got " +
                          std::to_string(first_draw) + " + " + std::to_string(draws));
  }
  std::optional<TensorView> offset;
  if (!draw_offset_object.is_none()) {
    offset.emplace(draw_offset_object, "draw_offset");
    offset->of(DType::kInt64).shaped({1}).on(images);
    // On a device the kernel reads it, and whoever looked here would have to wait for what writes it.
    if (images.device() == Device::kCpu) first_draw += checked_offset(*offset, first_draw, draws);
  }
  if (elements > (int64_t{1} << 34)) {
    throw py::value_error("images: expected at most 2^34 elements each, got " +
                          std::to_string(elements));
  }
  if (channels < 1 || elements % channels != 0) {
    throw py::value_error("channels: expected a divisor of " + std::to_string(elements) +
                          " elements, got " + std::to_string(channels));
  }
  const SimdPath path = parse_simd(simd);
  const float sigma32 = static_cast<float>(sigma);
  const uint32_t first = static_cast<uint32_t>(first_draw);
  dispatch(out, [&](auto* values) {
    const auto on_cpu = [&] {
      add_noise_cpu(images.data<float>(), sample_ids.data<int64_t>(), sigma32, seed, batch,
                    elements, first, draws, values, threads, path, channels);
    };
    CERTCAL_RUN(images, stream, on_cpu, [&](cudaStream_t on_stream) {
      return launch_add_noise(images.data<float>(), sample_ids.data<int64_t>(), sigma32, seed,
                              batch, elements, first, draws, values, on_stream, channels,
                              offset ? offset->data<const int64_t>() : nullptr);
    });
  });
}

}  // namespace

void register_noise(py::module_& module) {
  module.def("philox4x32_10", &philox, py::arg("counter"), py::arg("key"));
  module.def("add_noise", &add_noise, py::arg("images"), py::arg("out"), py::arg("sigma"),
             py::arg("seed"), py::arg("sample_ids"), py::arg("first_draw"), py::arg("threads") = 1,
             py::arg("stream") = 0, py::arg("simd") = "auto", py::arg("channels") = 1,
             py::arg("draw_offset") = py::none());
}

}  // namespace certcal::bindings
