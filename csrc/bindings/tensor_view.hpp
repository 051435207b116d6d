// SPDX-License-Identifier: MIT
// A borrowed look at an array that Python owns: NumPy through the buffer protocol, everything else through DLPack.
// The module therefore neither includes nor links torch, and one build serves every version of it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

namespace certcal::bindings {

namespace py = pybind11;

enum class DType { kFloat16, kBFloat16, kFloat32, kFloat64, kInt8, kInt64, kUInt8 };

enum class Device { kCpu, kCuda };

inline constexpr int64_t kAnySize = -1;

class TensorView {
 public:
  // Reads `array`; TypeError names the argument where it is neither a NumPy array nor a DLPack tensor.
  TensorView(const py::handle& array, std::string name);

  // Each check raises TypeError or ValueError with the argument's name, what was expected and what came.
  const TensorView& of(DType dtype) const;
  const TensorView& of_any(const std::vector<DType>& dtypes) const;
  const TensorView& shaped(const std::vector<int64_t>& sizes) const;  // kAnySize matches any size
  const TensorView& on(const TensorView& other) const;                // the same device
  const TensorView& writable() const;
  const TensorView& on_cpu() const;

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int device_index() const { return device_index_; }
  int64_t size(size_t axis) const { return shape_[axis]; }

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }

 private:
  void read_numpy(const py::handle& array);
  void read_dlpack(const py::handle& array);

  std::string name_;
  void* data_ = nullptr;
  DType dtype_ = DType::kFloat32;
  Device device_ = Device::kCpu;
  int device_index_ = 0;
  bool writable_ = true;
  std::vector<int64_t> shape_;
  py::object owner_;  // keeps the memory alive while the view does
};

}  // namespace certcal::bindings
