// SPDX-License-Identifier: MIT
#include "../core/ece_solve.hpp"
#include "../cpu/ece.hpp"
#include "bins_view.hpp"
#include "register.hpp"
#include "tensor_view.hpp"

namespace certcal::bindings {
namespace {

// (correct, lower, upper) of N rows on the CPU.
struct Rows {
  TensorView correct, lower, upper;
  int64_t count;

  Rows(const py::object& correct_object, const py::object& lower_object,
       const py::object& upper_object)
      : correct(correct_object, "correct"),
        lower(lower_object, "lower"),
        upper(upper_object, "upper") {
    correct.of(DType::kUInt8).shaped({kAnySize}).on_cpu();
    count = correct.size(0);
    lower.of(DType::kFloat64).shaped({count}).on_cpu();
    upper.of(DType::kFloat64).shaped({count}).on_cpu();
  }
};

const TensorView& table_of(const TensorView& state, const Bins& bins) {
  return state.of(DType::kInt64).shaped({2, bins.count, bins.count, kCellWords}).on_cpu();
}

int64_t ece_update(const py::object& correct, const py::object& lower, const py::object& upper,
                   const py::object& edges, bool closed_left, const py::object& state_object,
                   int threads) {
  const Rows rows(correct, lower, upper);
  const BinsView bins(edges, closed_left);
  const TensorView state(state_object, "state");
  table_of(state, bins.bins).writable();
  const py::gil_scoped_release release;
  return ece_update_cpu(rows.correct.data<uint8_t>(), rows.lower.data<double>(),
                        rows.upper.data<double>(), rows.count, bins.bins, state.data<int64_t>(),
                        threads);
}

double ece_solve(const py::object& state_object, const py::object& edges,
                 const py::object& signs_object) {
  const BinsView bins(edges, false);
  const TensorView state(state_object, "state");
  table_of(state, bins.bins);
  const TensorView signs(signs_object, "signs");
  signs.of(DType::kInt8).shaped({bins.bins.count}).on_cpu().writable();
  const py::gil_scoped_release release;
  const EceSolution solution = solve_ece(state.data<const int64_t>(), bins.bins);
  std::copy(solution.signs.begin(), solution.signs.end(), signs.data<int8_t>());
  return solution.value;
}

void ece_worst_confidence(const py::object& correct, const py::object& lower,
                          const py::object& upper, const py::object& edges, bool closed_left,
                          const py::object& signs_object, const py::object& out_object,
                          int threads) {
  const Rows rows(correct, lower, upper);
  const BinsView bins(edges, closed_left);
  const TensorView signs(signs_object, "signs");
  signs.of(DType::kInt8).shaped({bins.bins.count}).on_cpu();
  const TensorView out(out_object, "out");
  out.of(DType::kFloat64).shaped({rows.count}).on_cpu().writable();
  const py::gil_scoped_release release;
  ece_worst_confidence_cpu(rows.correct.data<uint8_t>(), rows.lower.data<double>(),
                           rows.upper.data<double>(), rows.count, bins.bins, signs.data<int8_t>(),
                           out.data<double>(), threads);
}

int64_t brier_update(const py::object& correct, const py::object& lower, const py::object& upper,
                     const py::object& sums_object, int threads) {
  const Rows rows(correct, lower, upper);
  const TensorView sums(sums_object, "sums");
  sums.of(DType::kInt64).shaped({2}).on_cpu().writable();
  const py::gil_scoped_release release;
  return brier_update_cpu(rows.correct.data<uint8_t>(), rows.lower.data<double>(),
                          rows.upper.data<double>(), rows.count, sums.data<int64_t>(), threads);
}

}  // namespace

void register_ece(py::module_& module) {
  module.def("ece_update", &ece_update, py::arg("correct"), py::arg("lower"), py::arg("upper"),
             py::arg("edges"), py::arg("closed_left"), py::arg("state"), py::arg("threads") = 1);
  module.def("ece_solve", &ece_solve, py::arg("state"), py::arg("edges"), py::arg("signs"));
  module.def("ece_worst_confidence", &ece_worst_confidence, py::arg("correct"), py::arg("lower"),
             py::arg("upper"), py::arg("edges"), py::arg("closed_left"), py::arg("signs"),
             py::arg("out"), py::arg("threads") = 1);
  module.def("brier_update", &brier_update, py::arg("correct"), py::arg("lower"), py::arg("upper"),
             py::arg("sums"), py::arg("threads") = 1);
}

}  // namespace certcal::bindings
