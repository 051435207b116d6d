// SPDX-License-Identifier: MIT
// Written by tools/make_coefficients.py; do not edit. F is float, or a vector of floats with fused().
#pragma once

#include "host_device.hpp"
#include "scalar.hpp"

namespace certcal {

// -2 log(1 + f) = -2 f + f^2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1]
template <class F>
CERTCAL_HD F log_tail(F x) {
  F p = F(-0x1.1d8ea60000000p-3f);
  p = fused(p, x, F(0x1.d635bc0000000p-3f));
  p = fused(p, x, F(-0x1.dea2820000000p-3f));
  p = fused(p, x, F(0x1.fcf4c60000000p-3f));
  p = fused(p, x, F(-0x1.23d21a0000000p-2f));
  p = fused(p, x, F(0x1.555b4a0000000p-2f));
  p = fused(p, x, F(-0x1.999d5a0000000p-2f));
  p = fused(p, x, F(0x1.fffffc0000000p-2f));
  p = fused(p, x, F(-0x1.5555540000000p-1f));
  return p;
}

// sin y = y + y^3 P(y^2) on [-pi/4, pi/4]
template <class F>
CERTCAL_HD F sin_tail(F x) {
  F p = F(0x1.6dbe080000000p-19f);
  p = fused(p, x, F(-0x1.a013a80000000p-13f));
  p = fused(p, x, F(0x1.11110e0000000p-7f));
  p = fused(p, x, F(-0x1.5555560000000p-3f));
  return p;
}

// cos y = 1 - y^2 / 2 + y^4 P(y^2) on [-pi/4, pi/4]
template <class F>
CERTCAL_HD F cos_tail(F x) {
  F p = F(-0x1.25244e0000000p-22f);
  p = fused(p, x, F(0x1.a015c40000000p-16f));
  p = fused(p, x, F(-0x1.6c16c00000000p-10f));
  p = fused(p, x, F(0x1.5555560000000p-5f));
  return p;
}

// exp r = 1 + r + r^2 P(r) on [-log(2) / 2, log(2) / 2]
template <class F>
CERTCAL_HD F exp_tail(F x) {
  F p = F(0x1.6d10fc0000000p-10f);
  p = fused(p, x, F(0x1.120b620000000p-7f));
  p = fused(p, x, F(0x1.55551a0000000p-5f));
  p = fused(p, x, F(0x1.5554de0000000p-3f));
  p = fused(p, x, F(0x1.0000000000000p-1f));
  return p;
}

}  // namespace certcal
