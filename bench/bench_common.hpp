// SPDX-License-Identifier: MIT
// What the C++ benchmarks share: checks before timing, the copy bandwidth as a yardstick, one way to time on each device.
//
// Every line reports
//   bytes, GB/s         the bytes that one call has to read and write, once each. Caches are not modelled: bytes that are read
//                       again from a cache, and lines that the processor reads only to overwrite them, do not count.
//   operations, Gop/s   the operations that its definition asks for, as counted beside each benchmark; fma counts as two.
//   copy_share          GB/s over the copy bandwidth of the same process, threads and device. A copy of n bytes counts 2 n,
//                       read and write. 1 means as fast as memcpy; above 1 means that the data came from a cache.
#pragma once

#include <benchmark/benchmark.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../csrc/cpu/parallel.hpp"

#ifdef CERTCAL_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

namespace certcal_bench {

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("wrong result: " + what);
}

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline std::vector<double> equal_width_edges(int bins) {
  std::vector<double> edges(static_cast<size_t>(bins) + 1);
  for (int m = 0; m <= bins; ++m) edges[static_cast<size_t>(m)] = static_cast<double>(m) / bins;
  return edges;
}

// ---- threads and the copy on the CPU ------------------------------------------------------------------------------

// The processors that this process may use.
inline int all_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

inline std::vector<int> thread_counts() {
  if (all_threads() == 1) return {1};
  return {1, all_threads()};
}

inline constexpr size_t kCopyBytes = size_t{1} << 28;  // far beyond the last-level cache

// Bytes per second, read and write counted, of the fastest of some large memcpy, one piece a thread: the fastest, so that
// our share of it is not flattered by a copy that was disturbed.
inline double copy_bandwidth(int threads) {
  static std::map<int, double> measured;
  const auto known = measured.find(threads);
  if (known != measured.end()) return known->second;
  const std::vector<char> source(kCopyBytes, 1);
  std::vector<char> target(kCopyBytes, 0);
  double best = 0;
  for (int run = 0; run < 9; ++run) {
    const auto start = std::chrono::steady_clock::now();
    certcal::parallel_for(static_cast<int64_t>(kCopyBytes), 1, threads,
                          [&](int64_t begin, int64_t end) {
                            std::memcpy(target.data() + begin, source.data() + begin,
                                        static_cast<size_t>(end - begin));
                          });
    best = std::max(best, 2.0 * static_cast<double>(kCopyBytes) / seconds_since(start));
    benchmark::DoNotOptimize(target.data());
  }
  return measured[threads] = best;
}

// ---- what a line reports --------------------------------------------------------------------------------------------

struct Work {
  double bytes;
  double operations;
};

inline void report(benchmark::State& state, const Work& work, double seconds, double bandwidth) {
  const double rate = static_cast<double>(state.iterations()) / seconds;
  state.counters["bytes"] = work.bytes;
  state.counters["operations"] = work.operations;
  state.counters["GB/s"] = 1e-9 * work.bytes * rate;
  state.counters["Gop/s"] = 1e-9 * work.operations * rate;
  state.counters["copy_share"] = work.bytes * rate / bandwidth;
}

// Times body(threads) for 1 thread and for all.
inline void add_cpu(const std::string& name, Work work, const std::function<void(int)>& body) {
  for (const int threads : thread_counts()) {
    benchmark::RegisterBenchmark((name + "/cpu/threads_" + std::to_string(threads)).c_str(),
                                 [=](benchmark::State& state) {
                                   const double bandwidth = copy_bandwidth(threads);
                                   body(threads);
                                   const auto start = std::chrono::steady_clock::now();
                                   for (auto _ : state) {
                                     body(threads);
                                     benchmark::ClobberMemory();
                                   }
                                   report(state, work, seconds_since(start), bandwidth);
                                 })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

// ---- CUDA ----------------------------------------------------------------------------------------------------------

#ifdef CERTCAL_HAS_CUDA

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

// Empty where there is a device.
inline std::string why_no_device() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return std::string("no CUDA device: ") + cudaGetErrorString(error);
  return devices > 0 ? "" : "no CUDA device";
}

// An array on the device for as long as any copy of the handle lives.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    void* pointer = nullptr;
    check(cudaMalloc(&pointer, std::max<size_t>(1, size) * sizeof(T)));
    data_ = std::shared_ptr<T>(static_cast<T*>(pointer), [](T* p) { cudaFree(p); });
    check(cudaMemset(pointer, 0, size * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    check(cudaMemcpy(data(), host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }

  T* data() const { return data_.get(); }
  size_t bytes() const { return size_ * sizeof(T); }
  std::vector<T> on_host() const {
    std::vector<T> host(size_);
    check(cudaMemcpy(host.data(), data(), bytes(), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  size_t size_;
  std::shared_ptr<T> data_;
};

inline constexpr int kLaunchesPerRun = 10;  // so that the first launch's latency is spread thin

// Seconds that one launch takes, from events on a stream of its own.
class DeviceTimer {
 public:
  DeviceTimer() {
    check(cudaStreamCreate(&stream_));
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  ~DeviceTimer() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
    cudaStreamDestroy(stream_);
  }
  DeviceTimer(const DeviceTimer&) = delete;
  DeviceTimer& operator=(const DeviceTimer&) = delete;

  double seconds(const std::function<cudaError_t(cudaStream_t)>& launch) {
    check(cudaEventRecord(start_, stream_));
    for (int k = 0; k < kLaunchesPerRun; ++k) check(launch(stream_));
    check(cudaEventRecord(stop_, stream_));
    check(cudaEventSynchronize(stop_));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start_, stop_));
    return static_cast<double>(milliseconds) / 1000 / kLaunchesPerRun;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

// As copy_bandwidth, on the device, of one gigabyte.
inline double device_copy_bandwidth() {
  static double best = 0;
  if (best > 0) return best;
  const DeviceArray<char> source(size_t{1} << 30), target(size_t{1} << 30);
  DeviceTimer timer;
  for (int run = 0; run < 9; ++run) {
    const double seconds = timer.seconds([&](cudaStream_t stream) {
      return cudaMemcpyAsync(target.data(), source.data(), source.bytes(), cudaMemcpyDeviceToDevice,
                             stream);
    });
    best = std::max(best, 2.0 * static_cast<double>(source.bytes()) / seconds);
  }
  return best;
}

// Times launch(stream), which neither allocates nor waits; its arrays were made before.
inline void add_cuda(const std::string& name, Work work,
                     const std::function<cudaError_t(cudaStream_t)>& launch) {
  benchmark::RegisterBenchmark((name + "/cuda").c_str(),
                               [=](benchmark::State& state) {
                                 const double bandwidth = device_copy_bandwidth();
                                 DeviceTimer timer;
                                 timer.seconds(launch);
                                 double total = 0;
                                 for (auto _ : state) {
                                   const double seconds = timer.seconds(launch);
                                   state.SetIterationTime(seconds);
                                   total += seconds;
                                 }
                                 report(state, work, total, bandwidth);
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

#else

inline std::string why_no_device() { return "built without CUDA"; }

#endif

// ---- main ----------------------------------------------------------------------------------------------------------

inline std::string gigabytes(double bytes_per_second) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", bytes_per_second / 1e9);
  return text;
}

// add_all() checks results and registers what is to be timed. The benchmarks on CUDA are left out, with the reason printed
// and in the JSON, where there is no device.
inline int run(int argc, char** argv, const std::function<void(bool on_cuda)>& add_all) {
  try {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    for (const int threads : thread_counts()) {
      benchmark::AddCustomContext(
          "copy_gigabytes_per_second_cpu_threads_" + std::to_string(threads),
          gigabytes(copy_bandwidth(threads)));
    }
    const std::string reason = why_no_device();
    benchmark::AddCustomContext("cuda", reason.empty() ? "timed" : "skipped: " + reason);
#ifdef CERTCAL_HAS_CUDA
    if (reason.empty()) {
      cudaDeviceProp device;
      check(cudaGetDeviceProperties(&device, 0));
      benchmark::AddCustomContext("cuda_device", device.name);
      benchmark::AddCustomContext("copy_gigabytes_per_second_cuda",
                                  gigabytes(device_copy_bandwidth()));
    }
#endif
    add_all(reason.empty());
    benchmark::AddCustomContext("result", "checked against the slow reference");
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}

}  // namespace certcal_bench
