// SPDX-License-Identifier: MIT
// Enough of CUDA to run this project's kernels on the host, block after block: each thread of a block is a fiber that
// runs until it meets a barrier or a warp intrinsic, so a missing __syncthreads() gives wrong sums and a barrier that not
// all threads reach is reported. Stands before the toolkit's own header in the include path of the C++ tests.
//
// What this shows: the indexing, the loops, the barriers and the sums of the very kernels that nvcc compiles. What it
// does not: the device's arithmetic (the C++ of the host is run) and its memory model.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ \
  __constinit thread_local  // one copy, whichever fiber runs; known without an initialiser
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

inline constexpr unsigned kWarp = 32;
inline constexpr size_t kStackBytes = 64 * 1024;

// The tests turn these: fewer blocks than a launcher asks for (the loops must then stride), and the order of threads.
inline unsigned max_blocks = 0xFFFFFFFFu;
inline bool reverse_order = false;
inline int launches = 0;

// A meeting point of some threads; `round` grows when all of them have come.
struct Barrier {
  unsigned arrived = 0;
  uint64_t round = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  bool finished = true;
};

class Block {
 public:
  void run(unsigned threads, const std::function<void()>& body) {
    body_ = &body;
    if (fibers_.size() < threads) fibers_.resize(threads);
    threads_ = threads;
    warp_barriers_.assign((threads + kWarp - 1) / kWarp, Barrier());
    exchange_.assign(warp_barriers_.size(), {});
    block_barrier_ = Barrier();
    for (unsigned t = 0; t < threads; ++t) start(fibers_[t]);
    unsigned left = threads;
    while (left > 0) {
      progress_ = false;
      for (unsigned i = 0; i < threads; ++i) {
        const unsigned t = reverse_order ? threads - 1 - i : i;
        if (fibers_[t].finished) continue;
        current_ = t;
        threadIdx.x = t;
        swapcontext(&scheduler_, &fibers_[t].context);
        if (fibers_[t].finished) {
          --left;
          progress_ = true;
        }
      }
      if (left > 0 && !progress_) fail("threads wait for others that never come");
    }
  }

  void sync_block() { wait(block_barrier_, threads_); }

  using Lanes = std::array<uint64_t, kWarp>;

  // Every thread of `mask` gives 8 bytes and gets those of all lanes of its warp. The next exchange writes to the other
  // of two buffers, and the one after it begins when all have read this one.
  Lanes exchange(unsigned mask, uint64_t mine) {
    Barrier& barrier = warp_barriers_[current_ / kWarp];
    Lanes& lanes = exchange_[current_ / kWarp][barrier.round % 2];
    lanes[lane()] = mine;
    wait(barrier, static_cast<unsigned>(__builtin_popcount(mask)));
    return lanes;
  }

  unsigned lane() const { return current_ % kWarp; }

 private:
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "cuda_on_host: %s (block %u)\n", what, blockIdx.x);
    std::abort();
  }

  void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler_;
    fiber.finished = false;
    makecontext(&fiber.context, &Block::enter, 0);
  }

  static void enter();

  void wait(Barrier& barrier, unsigned count) {
    const uint64_t round = barrier.round;
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
      ++barrier.round;
    }
    progress_ = true;
    while (barrier.round == round) {
      swapcontext(&fibers_[current_].context, &scheduler_);
    }
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<Fiber> fibers_;
  std::vector<Barrier> warp_barriers_;
  std::vector<std::array<Lanes, 2>> exchange_;
  Barrier block_barrier_;
  ucontext_t scheduler_ = {};
  unsigned threads_ = 0;
  unsigned current_ = 0;
  bool progress_ = false;
};

inline Block block;

inline void Block::enter() {
  (*block.body_)();
  block.fibers_[block.current_].finished = true;
}

template <class T>
uint64_t pack(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}

template <class T>
T unpack(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::block.sync_block(); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  const unsigned lane = cuda_on_host::block.lane() ^ static_cast<unsigned>(step);
  return cuda_on_host::unpack<T>(
      cuda_on_host::block.exchange(mask, cuda_on_host::pack(value))[lane]);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const auto votes = cuda_on_host::block.exchange(mask, vote ? 1 : 0);
  unsigned ballot = 0;
  for (unsigned k = 0; k < cuda_on_host::kWarp; ++k) {
    if (mask >> k & 1u) ballot |= static_cast<unsigned>(votes[k]) << k;
  }
  return ballot;
}

inline unsigned __match_any_sync(unsigned mask, unsigned long long value) {
  const auto values = cuda_on_host::block.exchange(mask, value);
  unsigned peers = 0;
  for (unsigned k = 0; k < cuda_on_host::kWarp; ++k) {
    if ((mask >> k & 1u) && values[k] == value) peers |= 1u << k;
  }
  return peers;
}

inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

template <class Word>
Word atomicAdd(Word* word, Word value) {
  Word before;
  std::memcpy(&before, word, sizeof before);
  const Word after = before + value;
  std::memcpy(word, &after, sizeof after);
  return before;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x == 0) return cudaErrorInvalidConfiguration;
  ++cuda_on_host::launches;
  blockDim = config->blockDim;
  gridDim = config->gridDim;
  if (gridDim.x > cuda_on_host::max_blocks) gridDim.x = cuda_on_host::max_blocks;
  const std::function<void()> body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  for (unsigned b = 0; b < gridDim.x; ++b) {
    blockIdx.x = cuda_on_host::reverse_order ? gridDim.x - 1 - b : b;
    cuda_on_host::block.run(blockDim.x, body);
  }
  return cudaSuccess;
}
