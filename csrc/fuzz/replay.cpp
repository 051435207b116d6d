// SPDX-License-Identifier: MIT
// Runs every file of corpus/<target>/ through its target, and each target on short inputs of its own: no fuzzer is needed.
//
// Usage: certcal_fuzz_replay CORPUS
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "fuzz.hpp"

namespace {

using Target = void (*)(const uint8_t*, size_t);
struct Named {
  const char* name;
  Target run;
};
constexpr Named kTargets[] = {{"certify", certcal_fuzz::certify},
                              {"ece", certcal_fuzz::ece},
                              {"noise", certcal_fuzz::noise},
                              {"numbers", certcal_fuzz::numbers},
                              {"votes", certcal_fuzz::votes}};
constexpr int kInputs = 300;

// Bytes that are the same in every run (SplitMix64), of lengths up to 300.
std::vector<uint8_t> made_input(uint64_t number) {
  std::vector<uint8_t> bytes(number * 7919 % 301);
  uint64_t state = number;
  for (uint8_t& byte : bytes) {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    byte = static_cast<uint8_t>((z ^ (z >> 27)) >> 32);
  }
  return bytes;
}

// The files of a folder in the order of their names; none where there is no folder.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::is_directory(folder)) return files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<uint8_t> content_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !std::filesystem::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: certcal_fuzz_replay CORPUS\n");
    return 2;
  }
  for (const Named& target : kTargets) {
    const auto files = files_of(std::filesystem::path(argv[1]) / target.name);
    if (files.empty()) {
      std::fprintf(stderr, "certcal_fuzz_replay: no inputs for %s in %s\n", target.name, argv[1]);
      return 2;
    }
    for (const auto& file : files) {
      // Named before it runs: the last line says which input ended the program.
      std::fprintf(stderr, "%s\n", file.c_str());
      const std::vector<uint8_t> bytes = content_of(file);
      target.run(bytes.data(), bytes.size());
    }
    for (uint64_t number = 0; number < kInputs; ++number) {
      const std::vector<uint8_t> bytes = made_input(number);
      target.run(bytes.data(), bytes.size());
    }
    std::printf("%s: %zu files and %d made inputs hold\n", target.name, files.size(), kInputs);
  }
  return 0;
}
