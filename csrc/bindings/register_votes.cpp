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
    view.of_any({DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16});
    batch = view.size(0);
    draws = view.size(1);
    classes = view.size(2);
    if (classes < 1) throw py::value_error("logits: expected at least one class, got none");
    faults.of(DType::kInt64).shaped({kFaultWords}).on(view).writable();
  }

  // Calls body with a pointer of the logits' own type.
  template <class Body>
  void dispatch(const Body& body) const {
    switch (view.dtype()) {
      case DType::kFloat16:
        return body(view.data<const Float16>());
      case DType::kBFloat16:
        return body(view.data<const BFloat16>());
      case DType::kFloat64:
        return body(view.data<const double>());
      default:
        return body(view.data<const float>());
    }
  }
};

// Views of the outputs, checked; null where the caller gave None.
struct VoteWords {
  TensorView counts;
  std::optional<TensorView> near_ties, margins;

  VoteWords(const Logits& logits, const py::object& counts_object, const py::object& near_object,
            const py::object& margins_object)
      : counts(counts_object, "counts") {
    counts.of(DType::kInt64).shaped({logits.batch, logits.classes}).on(logits.view).writable();
    if (near_object.is_none()) return;
    margins.emplace(margins_object, "margins");
    margins->of(DType::kFloat64).shaped({logits.batch}).on(logits.view);
    near_ties.emplace(near_object, "near_ties");
    near_ties->of(DType::kUInt8).shaped({logits.batch, logits.draws}).on(logits.view).writable();
  }
  const double* margins_data() const { return margins ? margins->data<const double>() : nullptr; }
  uint8_t* near_ties_data() const { return near_ties ? near_ties->data<uint8_t>() : nullptr; }
};

struct ScoreWords {
  std::optional<TensorView> classes;
  TensorView histogram, sums;

  ScoreWords(const Logits& logits, const py::object& classes_object,
             const py::object& histogram_object, const py::object& sums_object)
      : histogram(histogram_object, "histogram"), sums(sums_object, "score_sums") {
    if (!classes_object.is_none()) {
      classes.emplace(classes_object, "classes");
      classes->of(DType::kInt64).shaped({logits.batch}).on(logits.view);
      if (logits.view.device() == Device::kCpu) check_classes(logits);
    }
    histogram.of(DType::kInt64).shaped({logits.batch, kAnySize}).on(logits.view).writable();
    if (bins() < 1 || bins() > (1 << 24)) {
      throw py::value_error("histogram: expected 1 to 2^24 bins, got " + std::to_string(bins()));
    }
    sums.of(DType::kInt64).shaped({logits.batch, 2}).on(logits.view).writable();
  }
  int64_t bins() const { return histogram.size(1); }
  const int64_t* classes_data() const { return classes ? classes->data<const int64_t>() : nullptr; }

 private:
  void check_classes(const Logits& logits) const {
    for (int64_t b = 0; b < logits.batch; ++b) {
      const int64_t k = classes_data()[b];
      if (k < 0 || k >= logits.classes) {
        throw py::value_error("classes: expected values in [0, " + std::to_string(logits.classes) +
                              "), got " + std::to_string(k) + " at row " + std::to_string(b));
      }
    }
  }
};

void count_votes(const py::object& logits_object, const py::object& counts_object,
                 const py::object& near_ties_object, const py::object& margins_object,
                 const py::object& faults_object, int threads, uintptr_t stream) {
  const Logits logits(logits_object, faults_object);
  const VoteWords votes(logits, counts_object, near_ties_object, margins_object);
  logits.dispatch([&](const auto* data) {
    const auto on_cpu = [&] {
      count_votes_cpu(data, logits.batch, logits.draws, logits.classes, votes.margins_data(),
                      votes.counts.data<int64_t>(), votes.near_ties_data(),
                      logits.faults.data<int64_t>(), threads);
    };
    CERTCAL_RUN(logits.view, stream, on_cpu, [&](cudaStream_t on_stream) {
      return launch_count_votes(data, logits.batch, logits.draws, logits.classes,
                                votes.margins_data(), votes.counts.data<int64_t>(),
                                votes.near_ties_data(), logits.faults.data<int64_t>(), on_stream);
    });
  });
}

void score_histogram(const py::object& logits_object, const py::object& classes_object,
                     const py::object& histogram_object, const py::object& score_sums_object,
                     const py::object& faults_object, int threads, uintptr_t stream) {
  const Logits logits(logits_object, faults_object);
  const ScoreWords scores(logits, classes_object, histogram_object, score_sums_object);
  logits.dispatch([&](const auto* data) {
    const auto on_cpu = [&] {
      score_histogram_cpu(data, scores.classes_data(), logits.batch, logits.draws, logits.classes,
                          scores.bins(), scores.histogram.data<int64_t>(),
                          scores.sums.data<int64_t>(), logits.faults.data<int64_t>(), threads);
    };
    CERTCAL_RUN(logits.view, stream, on_cpu, [&](cudaStream_t on_stream) {
      return launch_score_histogram(data, scores.classes_data(), logits.batch, logits.draws,
                                    logits.classes, scores.bins(), scores.histogram.data<int64_t>(),
                                    scores.sums.data<int64_t>(), logits.faults.data<int64_t>(),
                                    on_stream);
    });
  });
}

void count_votes_and_scores(const py::object& logits_object, const py::object& classes_object,
                            const py::object& counts_object, const py::object& near_ties_object,
                            const py::object& margins_object, const py::object& histogram_object,
                            const py::object& score_sums_object, const py::object& faults_object,
                            int threads, uintptr_t stream) {
  const Logits logits(logits_object, faults_object);
  const VoteWords votes(logits, counts_object, near_ties_object, margins_object);
  const ScoreWords scores(logits, classes_object, histogram_object, score_sums_object);
  logits.dispatch([&](const auto* data) {
    const auto on_cpu = [&] {
      count_votes_and_scores_cpu(data, scores.classes_data(), logits.batch, logits.draws,
                                 logits.classes, scores.bins(), votes.margins_data(),
                                 votes.counts.data<int64_t>(), votes.near_ties_data(),
                                 scores.histogram.data<int64_t>(), scores.sums.data<int64_t>(),
                                 logits.faults.data<int64_t>(), threads);
    };
    CERTCAL_RUN(logits.view, stream, on_cpu, [&](cudaStream_t on_stream) {
      return launch_count_votes_and_scores(
          data, scores.classes_data(), logits.batch, logits.draws, logits.classes, scores.bins(),
          votes.margins_data(), votes.counts.data<int64_t>(), votes.near_ties_data(),
          scores.histogram.data<int64_t>(), scores.sums.data<int64_t>(),
          logits.faults.data<int64_t>(), on_stream);
    });
  });
}

}  // namespace

void register_votes(py::module_& module) {
  module.def("count_votes", &count_votes, py::arg("logits"), py::arg("counts"),
             py::arg("near_ties"), py::arg("margins"), py::arg("faults"), py::arg("threads") = 1,
             py::arg("stream") = 0);
  module.def("score_histogram", &score_histogram, py::arg("logits"), py::arg("classes"),
             py::arg("histogram"), py::arg("score_sums"), py::arg("faults"), py::arg("threads") = 1,
             py::arg("stream") = 0);
  module.def("count_votes_and_scores", &count_votes_and_scores, py::arg("logits"),
             py::arg("classes"), py::arg("counts"), py::arg("near_ties"), py::arg("margins"),
             py::arg("histogram"), py::arg("score_sums"), py::arg("faults"), py::arg("threads") = 1,
             py::arg("stream") = 0);
}

}  // namespace certcal::bindings
