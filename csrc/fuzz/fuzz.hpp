// SPDX-License-Identifier: MIT
// What the fuzz targets share: how raw bytes become arguments, and what happens where an invariant fails.
//
// A target is a function of bytes. libFuzzer calls it with inputs that it grows by coverage (libfuzzer_entry.cpp), and the
// replay program with the files of corpus/ (replay.cpp), so that what was found once is tried in every test run.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "../core/ece_table.hpp"

// Ends the program with the invariant's text: a fuzzer keeps the input of a program that ends so.
#define CERTCAL_HOLDS(...)                                                                  \
  do {                                                                                      \
    if (!(__VA_ARGS__)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
      std::abort();                                                                         \
    }                                                                                       \
  } while (false)

namespace certcal_fuzz {

void certify(const uint8_t* data, size_t size);
void ece(const uint8_t* data, size_t size);
void noise(const uint8_t* data, size_t size);
void numbers(const uint8_t* data, size_t size);
void votes(const uint8_t* data, size_t size);

// Reads arguments off the front of the bytes; zeros come after their end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }

  template <class T>
  T raw() {
    unsigned char bytes[sizeof(T)] = {};
    const size_t size = left_ < sizeof(T) ? left_ : sizeof(T);
    std::memcpy(bytes, data_, size);
    data_ += size;
    left_ -= size;
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }
  uint8_t byte() { return raw<uint8_t>(); }
  bool flag() { return (byte() & 1) != 0; }
  int64_t from(int64_t least, int64_t most) { return least + byte() % (most - least + 1); }

  // In [0, 1]: the ends, numbers next to them, those of few digits, and any other.
  double unit() {
    const uint8_t kind = byte();
    if (kind < 128) return static_cast<double>(kind) / 127.0;
    switch (kind % 8) {
      case 0:
        return static_cast<double>(byte()) / 255.0;
      case 1:
        return std::nextafter(static_cast<double>(byte() % 17) / 16.0, 0.0);
      case 2: {
        const double above = std::nextafter(static_cast<double>(byte() % 16) / 15.0, 2.0);
        return above < 1.0 ? above : 1.0;
      }
      case 3:
        return std::ldexp(1.0, -static_cast<int>(raw<uint16_t>() % 1076));
      case 4:
        return 1.0 - std::ldexp(1.0, -static_cast<int>(byte() % 56));
      default:
        return std::ldexp(static_cast<double>(raw<uint64_t>() >> 11), -53);
    }
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

// Bins of equal width, or of edges taken from the bytes.
class Edges {
 public:
  Edges(Input& input, int most) {
    const int count = static_cast<int>(input.from(1, most));
    const uint8_t kind = input.byte();
    closed_left_ = (kind & 1) != 0;
    for (int m = 0; m <= count; ++m) values_.push_back(static_cast<double>(m) / count);
    if ((kind & 2) == 0) return;
    values_.assign(1, 0.0);
    for (int m = 1; m < count; ++m) {
      const double edge = values_.back() + (1.0 - values_.back()) * input.unit() / 2;
      if (edge > values_.back() && edge < 1.0) values_.push_back(edge);
    }
    values_.push_back(1.0);
  }

  certcal::Bins bins() const {
    const int count = static_cast<int>(values_.size()) - 1;
    return {values_.data(), count, closed_left_, certcal::edges_are_uniform(values_.data(), count)};
  }

 private:
  std::vector<double> values_;
  bool closed_left_;
};

// The bin by its definition: the only one that holds x.
inline int defined_bin(double x, const certcal::Bins& bins) {
  for (int m = 0; m < bins.count; ++m) {
    const double left = bins.edges[m], right = bins.edges[m + 1];
    const bool holds = bins.closed_left
                           ? (x >= left && x < right) || (m + 1 == bins.count && x == 1)
                           : (x > left && x <= right) || (m == 0 && x == 0);
    if (holds) return m;
  }
  CERTCAL_HOLDS(false && "a number of [0, 1] lies in a bin");
  return -1;
}

}  // namespace certcal_fuzz
