// SPDX-License-Identifier: MIT
// The bindings as a build with CUDA has them, on the stand-in of this folder: memory of the host that Python calls a device's.
#include <pybind11/pybind11.h>

#include "../../bindings/register.hpp"
#include "../../cuda/noise.cu"
#include "../../cuda/votes.cu"

namespace {

cuda_on_host::Stream& stream_of(uintptr_t handle) {
  return *reinterpret_cast<cuda_on_host::Stream*>(handle);
}

std::vector<cuda_on_host::Graph> graphs;

}  // namespace

PYBIND11_MODULE(certcal_cuda_on_host, module) {
  certcal::bindings::register_noise(module);
  certcal::bindings::register_votes(module);
  module.def("device", [] { return cuda_on_host::device; });
  module.def("set_device", [](int device) { cuda_on_host::device = device; });
  module.def("fail_next_launch",
             [](int error) { cuda_on_host::next_launch = static_cast<cudaError_t>(error); });
  module.def("last_error", [] { return static_cast<int>(cuda_on_host::last_error); });
  module.def("launches", [] { return cuda_on_host::launches; });
  module.def("unload_kernels", [] { cuda_on_host::loaded.clear(); });
  module.def("new_stream", [] { return reinterpret_cast<uintptr_t>(new cuda_on_host::Stream()); });
  module.def("begin_capture", [](uintptr_t stream) { stream_of(stream).begin_capture(); });
  module.def("end_capture", [](uintptr_t stream) {
    graphs.push_back(stream_of(stream).end_capture());
    return graphs.size() - 1;
  });
  module.def("replay",
             [](size_t graph, uintptr_t stream) { stream_of(stream).replay(graphs.at(graph)); });
  module.def("finish", [](uintptr_t stream) { cuda_on_host::finish({&stream_of(stream)}); });
}
