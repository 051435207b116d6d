// SPDX-License-Identifier: MIT
#include <pybind11/pybind11.h>

#include "register.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled operations of certcal_ext (private; see _core.pyi)";
  certcal::bindings::register_build(module);
  certcal::bindings::register_noise(module);
  certcal::bindings::register_votes(module);
  certcal::bindings::register_certify(module);
  certcal::bindings::register_ece(module);
}
