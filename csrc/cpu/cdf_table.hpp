// SPDX-License-Identifier: MIT
// The host's copy of the table behind core/normal_cdf.hpp.
#pragma once

namespace certcal {

extern const double kNormalCdfTable[];

}  // namespace certcal
