// SPDX-License-Identifier: MIT
#include "cdf_table.hpp"

#include "../core/normal_cdf.hpp"

namespace certcal {

const double kNormalCdfTable[kCdfRows * kCdfTerms] = {
#include "../core/normal_cdf_table.inc"
};

}  // namespace certcal
