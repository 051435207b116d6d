// SPDX-License-Identifier: MIT
// What was built, and what is there at run time.
#include <pybind11/stl.h>

#include "../cpu/noise.hpp"
#include "register.hpp"

#ifdef CERTCAL_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace certcal::bindings {
namespace {

namespace py = pybind11;

py::dict build_info() {
  py::dict info;
  info["version"] = CERTCAL_VERSION;
  info["compiler"] = CERTCAL_COMPILER;
  info["build_type"] = CERTCAL_BUILD_TYPE;
  info["pybind11"] =
      std::to_string(PYBIND11_VERSION_MAJOR) + "." + std::to_string(PYBIND11_VERSION_MINOR);
#ifdef CERTCAL_HAS_CUDA
  info["cuda"] = true;
  info["cuda_compiler"] = CERTCAL_CUDA_COMPILER;
  info["cuda_architectures"] = CERTCAL_CUDA_ARCHITECTURES;
  info["cuda_runtime"] = CUDART_VERSION;
#else
  info["cuda"] = false;
  info["cuda_compiler"] = py::none();
  info["cuda_architectures"] = py::none();
  info["cuda_runtime"] = py::none();
#endif
  return info;
}

py::dict cuda_status() {
  py::dict status;
  py::list devices;
  status["compiled"] = false;
  status["driver"] = py::none();
  status["error"] = py::none();
#ifdef CERTCAL_HAS_CUDA
  status["compiled"] = true;
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) status["driver"] = driver;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    status["error"] = cudaGetErrorString(error);
    cudaGetLastError();  // a missing driver is an answer here, and must not look like a later call's failure
    count = 0;
  }
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
    py::dict entry;
    entry["index"] = device;
    entry["name"] = std::string(properties.name);
    entry["capability"] = std::to_string(properties.major) + "." + std::to_string(properties.minor);
    entry["memory_bytes"] = properties.totalGlobalMem;
    devices.append(entry);
  }
#endif
  status["devices"] = devices;
  return status;
}

std::vector<std::string> simd_paths() {
  std::vector<std::string> names;
  for (const SimdPath path : available_simd_paths()) names.push_back(simd_path_name(path));
  return names;
}

}  // namespace

void register_build(py::module_& module) {
  module.attr("__version__") = CERTCAL_VERSION;
  module.def("build_info", &build_info);
  module.def("cuda_status", &cuda_status);
  module.def("simd_paths", &simd_paths);
}

}  // namespace certcal::bindings
