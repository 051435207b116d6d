// SPDX-License-Identifier: MIT
#include "tensor_view.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <optional>
#include <utility>

#ifdef CERTCAL_HAS_CUDA
#include "device_guard.hpp"
#endif

namespace certcal::bindings {
namespace {

// The part of DLPack's C interface that a consumer needs (dmlc/dlpack, version 0, which every producer still speaks).
struct DlDevice {
  int32_t type, index;
};
struct DlDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  DlDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DlManagedTensor {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManagedTensor*);
};
constexpr int32_t kDlCpu = 1, kDlCuda = 2, kDlCudaHost = 3;
constexpr uint8_t kDlInt = 0, kDlUInt = 1, kDlFloat = 2, kDlBFloat = 4, kDlBool = 6;

struct DTypeName {
  DType dtype;
  const char* name;
  char kind;  // NumPy's; 'r' for bfloat16, which NumPy has not
  int bytes;
};
constexpr DTypeName kDTypes[] = {
    {DType::kFloat16, "float16", 'f', 2}, {DType::kBFloat16, "bfloat16", 'r', 2},
    {DType::kFloat32, "float32", 'f', 4}, {DType::kFloat64, "float64", 'f', 8},
    {DType::kInt8, "int8", 'i', 1},       {DType::kInt64, "int64", 'i', 8},
    {DType::kUInt8, "uint8", 'u', 1}};

const char* name_of(DType dtype) {
  for (const DTypeName& entry : kDTypes) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "unknown";
}

// `found` names what came; it is called only for the error, as NumPy takes its time to print a dtype.
template <class Describe>
DType find_dtype(char kind, int64_t bytes, const std::string& argument, const Describe& found) {
  if (kind == 'b') kind = 'u';
  for (const DTypeName& entry : kDTypes) {
    if (entry.kind == kind && entry.bytes == bytes) return entry.dtype;
  }
  throw py::type_error(
      argument +
      ": expected float16, bfloat16, float32, float64, int8, int64, uint8 or bool values, got " +
      found());
}

std::string shape_text(const std::vector<int64_t>& sizes) {
  std::string text = "(";
  for (size_t k = 0; k < sizes.size(); ++k) {
    if (k > 0) text += ", ";
    text += sizes[k] == kAnySize ? "*" : std::to_string(sizes[k]);
  }
  return text + (sizes.size() == 1 ? ",)" : ")");
}

std::string device_text(Device device, int index) {
  return device == Device::kCpu ? "cpu" : "cuda:" + std::to_string(index);
}

void require_contiguous(const std::vector<int64_t>& shape, const int64_t* strides, int64_t unit,
                        const std::string& argument) {
  if (strides == nullptr || std::find(shape.begin(), shape.end(), 0) != shape.end()) return;
  int64_t expected = unit;
  for (size_t k = shape.size(); k-- > 0;) {
    if (shape[k] > 1 && strides[k] != expected) {
      throw py::value_error(argument + ": expected a contiguous array, got one with strides");
    }
    expected *= shape[k];
  }
}

}  // namespace

TensorView::TensorView(const py::handle& array, std::string name) : name_(std::move(name)) {
  if (py::isinstance<py::array>(array)) {
    read_numpy(array);
  } else if (py::hasattr(array, "__dlpack__")) {
    read_dlpack(array);
  } else {
    throw py::type_error(name_ + ": expected a NumPy array or a tensor with __dlpack__, got " +
                         std::string(py::str(py::type::handle_of(array))));
  }
}

void TensorView::read_numpy(const py::handle& handle) {
  const auto array = py::reinterpret_borrow<py::array>(handle);
  const py::dtype dtype = array.dtype();
  dtype_ = find_dtype(dtype.kind(), dtype.itemsize(), name_,
                      [&] { return std::string(py::str(dtype)); });
  if (dtype.itemsize() > 1 && dtype.byteorder() == '>') {
    throw py::type_error(name_ + ": expected native byte order, got big-endian values");
  }
  shape_.assign(array.shape(), array.shape() + array.ndim());
  const std::vector<int64_t> strides(array.strides(), array.strides() + array.ndim());
  require_contiguous(shape_, strides.data(), dtype.itemsize(), name_);
  writable_ = array.writeable();
  data_ = const_cast<void*>(array.data());
  owner_ = array;
}

void TensorView::read_dlpack(const py::handle& array) {
  const auto device = array.attr("__dlpack_device__")().cast<py::tuple>();
  const int device_type = py::int_(device[0]).cast<int>();
#ifdef CERTCAL_HAS_CUDA
  // torch hands out a tensor only while its device is current.
  std::optional<DeviceGuard> guard;
  if (device_type == kDlCuda) guard.emplace(py::int_(device[1]).cast<int>());
#else
  if (device_type == kDlCuda) {
    throw py::value_error(
        name_ +
        ": expected CPU tensors: this build of certcal_ext has no CUDA; rebuild it "
        "with nvcc on the PATH and CERTCAL_CUDA=ON");
  }
#endif
  // -1: do not synchronise. Kernels run on the stream the caller names, which is where the tensor is used.
  py::capsule capsule = device_type == kDlCuda ? array.attr("__dlpack__")(py::arg("stream") = -1)
                                               : array.attr("__dlpack__")();
  auto* managed = static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (managed == nullptr) throw py::error_already_set();
  // From here on the tensor is ours to release, whatever happens below.
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  owner_ = py::capsule(managed, [](void* pointer) {
    auto* held = static_cast<DlManagedTensor*>(pointer);
    if (held->deleter != nullptr) held->deleter(held);
  });

  const DlTensor& tensor = managed->tensor;
  if (tensor.device.type != kDlCpu && tensor.device.type != kDlCuda &&
      tensor.device.type != kDlCudaHost) {
    throw py::value_error(name_ + ": expected a CPU or CUDA tensor, got DLPack device type " +
                          std::to_string(tensor.device.type));
  }
  device_ = tensor.device.type == kDlCuda ? Device::kCuda : Device::kCpu;
  device_index_ = tensor.device.index;
  const DlDataType type = tensor.dtype;
  const char kind = type.code == kDlInt      ? 'i'
                    : type.code == kDlUInt   ? 'u'
                    : type.code == kDlFloat  ? 'f'
                    : type.code == kDlBFloat ? 'r'
                    : type.code == kDlBool   ? 'b'
                                             : '?';
  dtype_ = find_dtype(type.lanes == 1 ? kind : '?', type.bits / 8, name_, [&] {
    return "DLPack code " + std::to_string(type.code) + " with " + std::to_string(type.bits) +
           " bits";
  });
  shape_.assign(tensor.shape, tensor.shape + tensor.ndim);
  require_contiguous(shape_, tensor.strides, 1, name_);
  data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
}

const TensorView& TensorView::of(DType dtype) const { return of_any({dtype}); }

const TensorView& TensorView::of_any(const std::vector<DType>& dtypes) const {
  if (std::find(dtypes.begin(), dtypes.end(), dtype_) != dtypes.end()) return *this;
  std::string expected;
  for (const DType dtype : dtypes) {
    if (!expected.empty()) expected += " or ";
    expected += name_of(dtype);
  }
  throw py::type_error(name_ + ": expected " + expected + " values, got " + name_of(dtype_));
}

const TensorView& TensorView::shaped(const std::vector<int64_t>& sizes) const {
  bool equal = sizes.size() == shape_.size();
  for (size_t k = 0; equal && k < sizes.size(); ++k) {
    equal = sizes[k] == kAnySize || sizes[k] == shape_[k];
  }
  if (!equal) {
    throw py::value_error(name_ + ": expected shape " + shape_text(sizes) + ", got " +
                          shape_text(shape_));
  }
  return *this;
}

const TensorView& TensorView::on(const TensorView& other) const {
  if (device_ != other.device_ || device_index_ != other.device_index_) {
    throw py::value_error(name_ + ": expected a tensor on " +
                          device_text(other.device_, other.device_index_) + " like " + other.name_ +
                          ", got one on " + device_text(device_, device_index_));
  }
  return *this;
}

const TensorView& TensorView::on_cpu() const {
  if (device_ != Device::kCpu) {
    throw py::value_error(name_ + ": expected an array on the CPU, got one on " +
                          device_text(device_, device_index_));
  }
  return *this;
}

const TensorView& TensorView::writable() const {
  if (!writable_) throw py::value_error(name_ + ": expected a writable array, got a read-only one");
  return *this;
}

}  // namespace certcal::bindings
