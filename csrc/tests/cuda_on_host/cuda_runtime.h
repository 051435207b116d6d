// SPDX-License-Identifier: MIT
// Enough of CUDA to run this project's kernels on the host, block after block: each thread of a block is a fiber that
// runs until it meets a barrier or a warp intrinsic, so a missing __syncthreads() gives wrong sums and a barrier that not
// all threads reach is reported. Stands before the toolkit's own header in the include path of the C++ tests.
//
// Streams do their work when somebody waits for them, in their own order and else in any; a capture keeps launches and does
// not run them. There are several devices, of which one is current, and kernels that are not loaded before their first launch.
//
// What this shows: the indexing, the loops, the barriers and the sums of the very kernels that nvcc compiles, and when what
// they read has to be there. What it does not: the device's arithmetic (the C++ of the host is run) and its memory model.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <set>
#include <utility>
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

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorECCUncorrectable = 214,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
struct cudaFuncAttributes {};

namespace cuda_on_host {
struct Stream;
}
using cudaStream_t = cuda_on_host::Stream*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

inline constexpr unsigned kWarp = 32;
inline constexpr size_t kStackBytes = 64 * 1024;

// The tests turn these: fewer blocks than a launcher asks for (the loops must then stride), the order of threads, the size
// of a device, and the error of the next launch.
inline unsigned max_blocks = 0xFFFFFFFFu;
enum class Order { kForward, kReverse, kRandom };
inline Order order = Order::kForward;
inline std::mt19937 random_order;
inline int processors = 2;
inline cudaError_t next_launch = cudaSuccess;
inline int launches = 0;
inline unsigned last_blocks = 0;  // of the last launch

inline constexpr int kDevices = 3;
inline int device = 0;
inline cudaError_t last_error = cudaSuccess;

using Work = std::function<void()>;
using Graph = std::vector<Work>;

// Work that was given and not done yet. Null stands for a stream that does all at once.
struct Stream {
  std::vector<Work> work;
  bool capturing = false;

  void give(Work one) { work.push_back(std::move(one)); }
  void begin_capture() { capturing = true; }
  Graph end_capture() {
    capturing = false;
    return std::exchange(work, {});
  }
  void replay(const Graph& graph) {
    for (const Work& one : graph) give(one);
  }
};

inline cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
inline std::set<const void*> loaded;

// Does the work of some streams: each in its order, which of them next at random.
inline void finish(std::initializer_list<Stream*> streams) {
  std::vector<std::pair<Stream*, size_t>> open;
  for (Stream* stream : streams) open.emplace_back(stream, 0);
  while (!open.empty()) {
    const size_t k = random_order() % open.size();
    if (open[k].second == open[k].first->work.size()) {
      open[k].first->work.clear();
      open.erase(open.begin() + static_cast<std::ptrdiff_t>(k));
    } else {
      open[k].first->work[open[k].second++]();
    }
  }
}

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
    progress_last_ = true;
    for (unsigned t = 0; t < threads; ++t) start(fibers_[t]);
    unsigned left = threads;
    while (left > 0) {
      progress_ = false;
      for (const unsigned t : turns()) {
        if (fibers_[t].finished) continue;
        current_ = t;
        threadIdx.x = t;
        swapcontext(&scheduler_, &fibers_[t].context);
        if (fibers_[t].finished) {
          --left;
          progress_ = true;
        }
      }
      // Where only some warps had a turn, all have one before this is a deadlock.
      if (left > 0 && !progress_ && !progress_last_)
        fail("threads wait for others that never come");
      progress_last_ = progress_;
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

  // Threads in the order in which they run on, up to their next barrier: warps at random, and sometimes not at all.
  std::vector<unsigned> turns() const {
    std::vector<unsigned> warps((threads_ + kWarp - 1) / kWarp), turns;
    for (unsigned w = 0; w < warps.size(); ++w) warps[w] = w;
    bool reverse_lanes = order == Order::kReverse;
    if (order == Order::kReverse) std::reverse(warps.begin(), warps.end());
    if (order == Order::kRandom) {
      std::shuffle(warps.begin(), warps.end(), random_order);
      if (progress_last_ && warps.size() > 1) warps.resize(1 + random_order() % warps.size());
      reverse_lanes = random_order() % 2 != 0;
    }
    for (const unsigned w : warps) {
      const unsigned lanes = std::min(kWarp, threads_ - w * kWarp);
      for (unsigned k = 0; k < lanes; ++k) {
        turns.push_back(w * kWarp + (reverse_lanes ? lanes - 1 - k : k));
      }
    }
    return turns;
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
  bool progress_last_ = true;
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

inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  const auto values = cuda_on_host::block.exchange(mask, value);
  uint64_t largest = 0;
  for (unsigned k = 0; k < cuda_on_host::kWarp; ++k) {
    if (mask >> k & 1u) largest = std::max(largest, values[k]);
  }
  return static_cast<unsigned>(largest);
}

inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return ~__reduce_max_sync(mask, ~value);
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

// ---- the calls of the run time --------------------------------------------------------------------------------------

inline cudaError_t cudaGetLastError() {
  return std::exchange(cuda_on_host::last_error, cudaSuccess);
}

namespace cuda_on_host {
inline cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
}  // namespace cuda_on_host

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "some error";
  }
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = cuda_on_host::device;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= cuda_on_host::kDevices) {
    return cuda_on_host::told(cudaErrorInvalidDevice);
  }
  cuda_on_host::device = device;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = cuda_on_host::processors;
  return cudaSuccess;
}

inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream != nullptr && stream->capturing ? cudaStreamCaptureStatusActive
                                                   : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, cuda_on_host::capture_mode);
  return cudaSuccess;
}

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void* kernel) {
  if (cuda_on_host::capture_mode != cudaStreamCaptureModeRelaxed) {
    return cuda_on_host::told(cudaErrorStreamCaptureUnsupported);
  }
  cuda_on_host::loaded.insert(kernel);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  using namespace cuda_on_host;
  if (next_launch != cudaSuccess) return told(std::exchange(next_launch, cudaSuccess));
  if (config->gridDim.x == 0 || config->blockDim.x == 0) return told(cudaErrorInvalidConfiguration);
  const bool captured = config->stream != nullptr && config->stream->capturing;
  if (captured && loaded.count(reinterpret_cast<const void*>(kernel)) == 0) {
    return told(cudaErrorStreamCaptureUnsupported);
  }
  loaded.insert(reinterpret_cast<const void*>(kernel));
  last_blocks = config->gridDim.x;
  // As a device does, it takes the values of the arguments now and looks at memory when it runs.
  const Work work = [=, threads = config->blockDim, blocks = config->gridDim] {
    ++launches;
    blockDim = threads;
    gridDim = blocks;
    if (gridDim.x > max_blocks) gridDim.x = max_blocks;
    const std::function<void()> body = [&] { kernel(static_cast<Parameters>(arguments)...); };
    std::vector<unsigned> turns(gridDim.x);
    for (unsigned b = 0; b < gridDim.x; ++b) turns[b] = b;
    if (order == Order::kReverse) std::reverse(turns.begin(), turns.end());
    if (order == Order::kRandom) std::shuffle(turns.begin(), turns.end(), random_order);
    for (const unsigned b : turns) {
      blockIdx.x = b;
      block.run(blockDim.x, body);
    }
  };
  if (config->stream == nullptr) {
    work();
  } else {
    config->stream->give(work);
  }
  return cudaSuccess;
}
