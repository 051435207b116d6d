// SPDX-License-Identifier: MIT
// What the launchers and kernels share: the launch shape, the error check, sums in shared and in global memory.
//
// Every kernel walks its tiles with a grid-stride loop and adds integers, so results do not depend on the launch shape.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace certcal {

inline constexpr int kBlockThreads = 256;
inline constexpr int kBlocksPerProcessor =
    3;  // leaves a thread 80 registers: enough for all kernels here
inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kFullWarp = 0xFFFFFFFFu;
inline constexpr int64_t kMaxBlocks = 4096;  // 2^20 threads: more than a device holds at once

// Four words: what one instruction reads or writes.
struct alignas(16) Vector {
  uint32_t word[4];
};

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads that the current device runs at once, of kernels with so many blocks a processor; 0 where it cannot be asked.
inline int64_t threads_at_once(int blocks_per_processor = kBlocksPerProcessor) {
  int device = 0, processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    cudaGetLastError();  // the launch will tell
    return 0;
  }
  return int64_t{processors} * blocks_per_processor * kBlockThreads;
}

// A kernel is loaded when it is launched for the first time, and a capture allows that only where it is told to.
template <class Kernel>
cudaError_t load_for_capture(Kernel kernel, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaError_t error = cudaStreamIsCapturing(stream, &status);
  if (error != cudaSuccess || status == cudaStreamCaptureStatusNone) return error;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  error = cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) return error;
  cudaFuncAttributes attributes;
  error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  const cudaError_t restored = cudaThreadExchangeStreamCaptureMode(&mode);
  return error != cudaSuccess ? error : restored;
}

// Launches kernel(arguments...) with one block for each of `tiles` tiles, up to kMaxBlocks.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t tiles, cudaStream_t stream,
                   Arguments... arguments) {
  const cudaError_t error = load_for_capture(kernel, stream);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles < kMaxBlocks ? tiles : kMaxBlocks));
  config.blockDim = dim3(kBlockThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Adds to a word in global memory; two's complement makes the unsigned addition the signed one.
__device__ inline void atomic_add(int64_t* word, int64_t value) {
  if (value != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(value));
  }
}

// A 64-bit sum in shared memory. The hardware adds 32-bit words there, while a 64-bit addition would be a loop that
// repeats under contention; the carry is taken from the value that the lower half had.
struct SharedSum {
  unsigned low, high;

  __device__ void clear() { low = high = 0; }

  // value >= 0
  __device__ void add(int64_t value) {
    const unsigned value_low = static_cast<unsigned>(value);
    const unsigned before = atomicAdd(&low, value_low);
    const unsigned carry = before + value_low < before ? 1u : 0u;
    const unsigned value_high = static_cast<unsigned>(value >> 32) + carry;
    if (value_high != 0) atomicAdd(&high, value_high);
  }

  __device__ int64_t value() const {
    return static_cast<int64_t>(static_cast<uint64_t>(high) << 32 | low);
  }
};

// A count in shared memory, of at most 2^32 - 1.
struct SharedCount {
  unsigned count;

  __device__ void clear() { count = 0; }
  __device__ void add(int64_t value) { atomicAdd(&count, static_cast<unsigned>(value)); }
  __device__ int64_t value() const { return count; }
};

// `size` words in global memory that a block adds to: by way of shared memory, or directly where `shared` is null.
// All threads of the block call clear() and flush(), with __syncthreads() between these and any add().
template <class SharedWord>
struct BlockWords {
  SharedWord* shared;
  int64_t* global;
  int64_t size;

  __device__ void clear() const {
    if (shared == nullptr) return;
    for (int64_t w = threadIdx.x; w < size; w += kBlockThreads) shared[w].clear();
  }

  __device__ void add(int64_t word, int64_t value) const {
    if (shared == nullptr) {
      atomic_add(global + word, value);
    } else {
      shared[word].add(value);
    }
  }

  __device__ void flush() const {
    if (shared == nullptr) return;
    for (int64_t w = threadIdx.x; w < size; w += kBlockThreads) {
      atomic_add(global + w, shared[w].value());
    }
  }
};

}  // namespace certcal
