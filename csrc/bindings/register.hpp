// SPDX-License-Identifier: MIT
// One function per topic; module.cpp is their table of contents.
#pragma once

#include <pybind11/pybind11.h>

namespace certcal::bindings {

void register_build(pybind11::module_& module);
void register_noise(pybind11::module_& module);
void register_votes(pybind11::module_& module);
void register_certify(pybind11::module_& module);
void register_ece(pybind11::module_& module);

}  // namespace certcal::bindings
