// SPDX-License-Identifier: MIT
#include <optional>

#include "../core/votes.hpp"
#include "../cpu/votes.hpp"
#include "device.hpp"
#include "register.hpp"
#include "tensor_view.hpp"

#ifdef CERTCAL_HAS_CUDA
#include "../cuda/votes.hpp"
#endif

namespace certcal::bindings {
namespace {

// Views of what both operations read, checked.
struct Logits {
  TensorView view, faults;
  int64_t batch, draws, classes;

  Logits(const py::object& logits, const py::object& faults_object)
      : view(logits, "logits"), faults(faults_object, "faults") {
    view.shaped({kAnySize, kAnySize, kAnySize});
    if (view.dtype() != DType::kFloat32) view.of(DType::kFloat64);
    batch = view.size(0);
    draws = view.size(1);
    classes = view.size(2);
    if (classes < 1) throw py::value_error("logits: expected at least one class, got none");
    faults.of(DType::kInt64).shaped({kFaultWords}).on(view).writable();
  }

  // Calls body with a pointer of the logits' own type.
  template <class Body>
  void dispatch(const Body& body) const {
    if (view.dtype() == DType::kFloat32) {
      body(view.data<const float>());
    } else {
      body(view.data<const double>());
    }
  }
};

void count_votes(const py::object& logits_object, const py::object& counts_object,
                 const py::object& near_ties_object, double margin, const py::object& faults_object,
                 int threads, uintptr_t stream) {
  const Logits logits(logits_object, faults_object);
  const TensorView counts(counts_object, "counts");
  counts.of(DType::kInt64).shaped({logits.batch, logits.classes}).on(logits.view).writable();
  std::optional<TensorView> near_ties;
  uint8_t* near_ties_data = nullptr;
  if (!near_ties_object.is_none()) {
    near_ties.emplace(near_ties_object, "near_ties");
    near_ties->of(DType::kUInt8).shaped({logits.batch, logits.draws}).on(logits.view).writable();
    near_ties_data = near_ties->data<uint8_t>();
  }
  logits.dispatch([&](const auto* data) {
    const auto on_cpu = [&] {
      count_votes_cpu(data, logits.batch, logits.draws, logits.classes, margin,
                      counts.data<int64_t>(), near_ties_data, logits.faults.data<int64_t>(),
                      threads);
    };
    CERTCAL_RUN(logits.view, stream, on_cpu, [&](cudaStream_t on_stream) {
      return launch_count_votes(data, logits.batch, logits.draws, logits.classes, margin,
                                counts.data<int64_t>(), near_ties_data,
                                logits.faults.data<int64_t>(), on_stream);
    });
  });
}

void score_histogram(const py::object& logits_object, const py::object& classes_object,
                     const py::object& histogram_object, const py::object& score_sums_object,
                     const py::object& faults_object, int threads, uintptr_t stream) {
  const Logits logits(logits_object, faults_object);
  std::optional<TensorView> classes;
  const int64_t* classes_data = nullptr;
  if (!classes_object.is_none()) {
    classes.emplace(classes_object, "classes");
    classes->of(DType::kInt64).shaped({logits.batch}).on(logits.view);
    classes_data = classes->data<int64_t>();
    for (int64_t b = 0; logits.view.device() == Device::kCpu && b < logits.batch; ++b) {
      if (classes_data[b] < 0 || classes_data[b] >= logits.classes) {
        throw py::value_error("classes: expected values in [0, " + std::to_string(logits.classes) +
                              "), got " + std::to_string(classes_data[b]) + " at row " +
                              std::to_string(b));
      }
    }
  }
  const TensorView histogram(histogram_object, "histogram");
  histogram.of(DType::kInt64).shaped({logits.batch, kAnySize}).on(logits.view).writable();
  const int64_t bins = histogram.size(1);
  if (bins < 1 || bins > (1 << 24)) {
    throw py::value_error("histogram: expected 1 to 2^24 bins, got " + std::to_string(bins));
  }
  const TensorView score_sums(score_sums_object, "score_sums");
  score_sums.of(DType::kInt64).shaped({logits.batch, 2}).on(logits.view).writable();
  logits.dispatch([&](const auto* data) {
    const auto on_cpu = [&] {
      score_histogram_cpu(data, classes_data, logits.batch, logits.draws, logits.classes, bins,
                          histogram.data<int64_t>(), score_sums.data<int64_t>(),
                          logits.faults.data<int64_t>(), threads);
    };
    CERTCAL_RUN(logits.view, stream, on_cpu, [&](cudaStream_t on_stream) {
      return launch_score_histogram(data, classes_data, logits.batch, logits.draws, logits.classes,
                                    bins, histogram.data<int64_t>(), score_sums.data<int64_t>(),
                                    logits.faults.data<int64_t>(), on_stream);
    });
  });
}

}  // namespace

void register_votes(py::module_& module) {
  module.def("count_votes", &count_votes, py::arg("logits"), py::arg("counts"),
             py::arg("near_ties"), py::arg("margin"), py::arg("faults"), py::arg("threads") = 1,
             py::arg("stream") = 0);
  module.def("score_histogram", &score_histogram, py::arg("logits"), py::arg("classes"),
             py::arg("histogram"), py::arg("score_sums"), py::arg("faults"), py::arg("threads") = 1,
             py::arg("stream") = 0);
}

}  // namespace certcal::bindings
