// SPDX-License-Identifier: MIT
// The one place that chooses the device: run(on_cpu, on_cuda) calls what fits where the tensors lie.
#pragma once

#include <pybind11/pybind11.h>

#include "tensor_view.hpp"

#ifdef CERTCAL_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace certcal::bindings {

#ifdef CERTCAL_HAS_CUDA

// Makes the tensors' device current and puts the caller's back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    if (cudaGetDevice(&previous_) == cudaSuccess && previous_ != device) {
      changed_ = cudaSetDevice(device) == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

template <class OnCpu, class OnCuda>
void run(const TensorView& where, uintptr_t stream, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  cudaError_t error = cudaSuccess;
  {
    const py::gil_scoped_release release;
    if (where.device() == Device::kCpu) {
      on_cpu();
    } else {
      const DeviceGuard guard(where.device_index());
      error = on_cuda(reinterpret_cast<cudaStream_t>(stream));
    }
  }
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
  }
}

#else

template <class OnCpu>
void run(const TensorView& where, const OnCpu& on_cpu) {
  if (where.device() != Device::kCpu) {
    throw py::value_error(
        "expected CPU tensors: this build of certcal_ext has no CUDA; rebuild it with nvcc on the "
        "PATH and "
        "CERTCAL_CUDA=ON");
  }
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
