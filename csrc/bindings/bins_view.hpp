// SPDX-License-Identifier: MIT
// Bin edges as Python hands them over.
#pragma once

#include "../core/ece_table.hpp"
#include "tensor_view.hpp"

namespace certcal::bindings {

inline constexpr int64_t kMaxBins = 4096;

// Edges on the CPU, checked: strictly increasing from 0 to 1.
struct BinsView {
  TensorView view;
  Bins bins;

  BinsView(const py::object& edges, bool closed_left) : view(edges, "edges"), bins{} {
    view.of(DType::kFloat64).shaped({kAnySize}).on_cpu();
    const int64_t count = view.size(0) - 1;
    if (count < 1 || count > kMaxBins) {
      throw py::value_error("edges: expected 2 to " + std::to_string(kMaxBins + 1) +
                            " values, got " + std::to_string(view.size(0)));
    }
    const double* values = view.data<const double>();
    bool valid = values[0] == 0.0 && values[count] == 1.0;
    for (int64_t m = 0; m < count; ++m) valid = valid && values[m] < values[m + 1];
    if (!valid) {
      throw py::value_error("edges: expected values strictly increasing from 0 to 1");
    }
    const int bin_count = static_cast<int>(count);
    bins = {values, bin_count, closed_left, edges_are_uniform(values, bin_count)};
  }
};

}  // namespace certcal::bindings
