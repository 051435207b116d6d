// SPDX-License-Identifier: MIT
// The current CUDA device, and CUDA's errors as exceptions; for builds with CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace certcal::bindings {

// Whether only a running kernel, or the device under it, can fail so. A launch does not wait for what it starts: unless
// launches are made to wait, one that returns such an error tells of a kernel before it.
inline bool is_of_a_kernel_that_ran(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
      return true;
    default:
      return false;
  }
}

// Raises RuntimeError unless all is well. Memory that ran out is told by CUDA's own words, "out of memory".
inline void require_success(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it is told here, and not once more by whoever asks next
  if (is_of_a_kernel_that_ran(error)) {
    throw std::runtime_error(
        std::string("CUDA error of a kernel that was launched before (or, under "
                    "CUDA_LAUNCH_BLOCKING=1, of this one): ") +
        cudaGetErrorString(error));
  }
  throw std::runtime_error("CUDA error: " + what + cudaGetErrorString(error));
}

// Makes a device current and puts the caller's back; raises where there is no such device.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    require_success(cudaGetDevice(&previous_), "which device is current: ");
    if (previous_ == device) return;
    require_success(cudaSetDevice(device), "cuda:" + std::to_string(device) + ": ");
    changed_ = true;
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

}  // namespace certcal::bindings
