// SPDX-License-Identifier: MIT
// Splits a range over a few threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <vector>

namespace certcal {

// Calls work(data, piece) once for each piece in [0, pieces), on at most as many threads, and returns when all are done.
// Where torch is loaded, its own OpenMP team does it (see parallel.cpp); elsewhere threads that end with the call.
void run_pieces(int64_t pieces, void (*work)(void* data, int64_t piece), void* data);

// Calls body(begin, end) on pieces that cover [0, size), each of at least `grain` items but for the last.
template <class Body>
void parallel_for(int64_t size, int64_t grain, int threads, const Body& body) {
  if (size <= 0) return;
  const int64_t most = std::max<int64_t>(1, size / std::max<int64_t>(1, grain));
  const int64_t pieces = std::clamp<int64_t>(threads, 1, most);
  if (pieces == 1) {
    body(int64_t{0}, size);
    return;
  }
  struct Job {
    const Body& body;
    int64_t size, pieces;
    std::vector<std::exception_ptr> errors;
  } job{body, size, pieces, std::vector<std::exception_ptr>(static_cast<size_t>(pieces))};
  run_pieces(
      pieces,
      [](void* data, int64_t piece) {
        Job& j = *static_cast<Job*>(data);
        try {
          j.body(j.size * piece / j.pieces, j.size * (piece + 1) / j.pieces);
        } catch (...) {
          j.errors[static_cast<size_t>(piece)] = std::current_exception();
        }
      },
      &job);
  for (const std::exception_ptr& error : job.errors) {
    if (error) std::rethrow_exception(error);
  }
}

// Adds to a word that several threads may add to; integer addition has no order.
inline void atomic_add(int64_t& word, int64_t value) {
  if (value != 0) __atomic_fetch_add(&word, value, __ATOMIC_RELAXED);
}

}  // namespace certcal
