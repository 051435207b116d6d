// SPDX-License-Identifier: MIT
// What libFuzzer calls; CERTCAL_FUZZ_TARGET is the name of a target.
#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  certcal_fuzz::CERTCAL_FUZZ_TARGET(data, size);
  return 0;
}
