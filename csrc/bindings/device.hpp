// SPDX-License-Identifier: MIT
// The one place that chooses the device: run(on_cpu, on_cuda) calls what fits where the tensors lie.
#pragma once

#include <pybind11/pybind11.h>

#include "tensor_view.hpp"

#ifdef CERTCAL_HAS_CUDA
#include "device_guard.hpp"
#endif

namespace certcal::bindings {

#ifdef CERTCAL_HAS_CUDA

template <class OnCpu, class OnCuda>
void run(const TensorView& where, uintptr_t stream, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  const py::gil_scoped_release release;
  if (where.device() == Device::kCpu) return on_cpu();
  const DeviceGuard guard(where.device_index());
  require_success(on_cuda(reinterpret_cast<cudaStream_t>(stream)), "");
}

#else

// Tensors on a GPU were refused when they were read.
template <class OnCpu>
void run(const TensorView&, const OnCpu& on_cpu) {
  const py::gil_scoped_release release;
  on_cpu();
}

#endif

}  // namespace certcal::bindings

// Spells both branches in a CUDA build and the first one in a CPU build, where cuda/ is not compiled at all.
#ifdef CERTCAL_HAS_CUDA
#define CERTCAL_RUN(where, stream, on_cpu, ...) \
  ::certcal::bindings::run(where, stream, on_cpu, __VA_ARGS__)
#else
#define CERTCAL_RUN(where, stream, on_cpu, ...) \
  ((void)(stream), ::certcal::bindings::run(where, on_cpu))
#endif
