// SPDX-License-Identifier: MIT
#include "../core/certify.hpp"
#include "../cpu/certify.hpp"
#include "bins_view.hpp"
#include "register.hpp"
#include "tensor_view.hpp"

namespace certcal::bindings {
namespace {

void require_groups_in_range(const int64_t* group, int64_t samples, int64_t groups) {
  for (int64_t n = 0; n < samples; ++n) {
    if (group[n] < 0 || group[n] >= groups) {
      throw py::value_error("group: expected values in [0, " + std::to_string(groups) + "), got " +
                            std::to_string(group[n]) + " at row " + std::to_string(n));
    }
  }
}

void require_confidences(const double* confidence, int64_t groups) {
  for (int64_t g = 0; g < groups; ++g) {
    if (!(confidence[g] >= 0.0 && confidence[g] <= 1.0)) {
      throw py::value_error("confidence: expected values in [0, 1], got " +
                            std::to_string(confidence[g]) + " in group " + std::to_string(g));
    }
  }
}

void certify(const py::object& group_object, const py::object& correct_object,
             const py::object& confidence_object, const py::object& probit_lower_object,
             const py::object& probit_upper_object, const py::object& shifts_object,
             const py::object& edges_object, bool closed_left, const py::object& tables_object,
             const py::object& clean_object, const py::object& brier_object, int threads) {
  const TensorView group(group_object, "group");
  group.of(DType::kInt64).shaped({kAnySize}).on_cpu();
  const int64_t samples = group.size(0);
  const TensorView correct(correct_object, "correct");
  correct.of(DType::kUInt8).shaped({samples}).on(group);
  const TensorView confidence(confidence_object, "confidence");
  confidence.of(DType::kFloat64).shaped({kAnySize}).on(group);
  const int64_t groups = confidence.size(0);
  const TensorView probit_lower(probit_lower_object, "probit_lower");
  probit_lower.of(DType::kFloat64).shaped({groups}).on(group);
  const TensorView probit_upper(probit_upper_object, "probit_upper");
  probit_upper.of(DType::kFloat64).shaped({groups}).on(group);
  const TensorView shifts(shifts_object, "shifts");
  shifts.of(DType::kFloat64).shaped({kAnySize}).on(group);
  const int64_t radii = shifts.size(0);
  const BinsView edges(edges_object, closed_left);
  const Bins& bins = edges.bins;
  const TensorView tables(tables_object, "tables");
  tables.of(DType::kInt64).shaped({radii, 2, bins.count, bins.count, kCellWords});
  tables.on(group).writable();
  const TensorView clean(clean_object, "clean");
  clean.of(DType::kInt64).shaped({radii, bins.count, kCleanWords}).on(group).writable();
  const TensorView brier(brier_object, "brier");
  brier.of(DType::kInt64).shaped({radii, kBrierWords}).on(group).writable();

  require_groups_in_range(group.data<const int64_t>(), samples, groups);
  require_confidences(confidence.data<const double>(), groups);

  const py::gil_scoped_release release;
  certify_cpu(group.data<int64_t>(), correct.data<uint8_t>(), samples, confidence.data<double>(),
              probit_lower.data<double>(), probit_upper.data<double>(), groups,
              shifts.data<double>(), radii, bins, tables.data<int64_t>(), clean.data<int64_t>(),
              brier.data<int64_t>(), threads);
}

void summarize(const py::object& tables_object, const py::object& clean_object,
               const py::object& brier_object, const py::object& edges_object,
               const py::object& summary_object, int threads) {
  const BinsView edges(edges_object, false);
  const int64_t count = edges.bins.count;
  const TensorView tables(tables_object, "tables");
  tables.of(DType::kInt64).shaped({kAnySize, 2, count, count, kCellWords}).on_cpu();
  const int64_t radii = tables.size(0);
  const TensorView clean(clean_object, "clean");
  clean.of(DType::kInt64).shaped({radii, count, kCleanWords}).on_cpu();
  const TensorView brier(brier_object, "brier");
  brier.of(DType::kInt64).shaped({radii, kBrierWords}).on_cpu();
  const TensorView summary(summary_object, "summary");
  summary.of(DType::kFloat64).shaped({radii, kSummaryColumns}).on_cpu().writable();
  const py::gil_scoped_release release;
  summarize_cpu(tables.data<const int64_t>(), clean.data<const int64_t>(),
                brier.data<const int64_t>(), radii, edges.bins, summary.data<double>(), threads);
}

void shift_interval_rows(const py::object& probit_lower_object,
                         const py::object& probit_upper_object, double shift,
                         const py::object& lower_object, const py::object& upper_object,
                         int threads) {
  const TensorView probit_lower(probit_lower_object, "probit_lower");
  probit_lower.of(DType::kFloat64).shaped({kAnySize}).on_cpu();
  const int64_t rows = probit_lower.size(0);
  const TensorView probit_upper(probit_upper_object, "probit_upper");
  probit_upper.of(DType::kFloat64).shaped({rows}).on_cpu();
  const TensorView lower(lower_object, "lower");
  lower.of(DType::kFloat64).shaped({rows}).on_cpu().writable();
  const TensorView upper(upper_object, "upper");
  upper.of(DType::kFloat64).shaped({rows}).on_cpu().writable();
  const py::gil_scoped_release release;
  shift_interval_cpu(probit_lower.data<double>(), probit_upper.data<double>(), shift, rows,
                     lower.data<double>(), upper.data<double>(), threads);
}

}  // namespace

void register_certify(py::module_& module) {
  module.def("certify", &certify, py::arg("group"), py::arg("correct"), py::arg("confidence"),
             py::arg("probit_lower"), py::arg("probit_upper"), py::arg("shifts"), py::arg("edges"),
             py::arg("closed_left"), py::arg("tables"), py::arg("clean"), py::arg("brier"),
             py::arg("threads") = 1);
  module.def("summarize", &summarize, py::arg("tables"), py::arg("clean"), py::arg("brier"),
             py::arg("edges"), py::arg("summary"), py::arg("threads") = 1);
  module.def("shift_interval", &shift_interval_rows, py::arg("probit_lower"),
             py::arg("probit_upper"), py::arg("shift"), py::arg("lower"), py::arg("upper"),
             py::arg("threads") = 1);
}

}  // namespace certcal::bindings
