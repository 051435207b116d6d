// SPDX-License-Identifier: MIT
// Where the threads come from.
//
// torch keeps an OpenMP team whose idle threads spin for some milliseconds after each of its operations. Threads of our own
// would share the processors with them: on 2 cores, noise between two forward passes took 1.6 times as long. So where torch
// is loaded, its OpenMP runtime is asked to run our pieces on that very team. The entry point GOMP_parallel is looked up in
// the library that the process has already loaded (GNU's runtime has it, LLVM's and Intel's export it too): nothing is
// linked, and one build serves a process with torch, without it, and with any build of it.
#include "parallel.hpp"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

namespace certcal {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

struct LoadedLibraries {
  std::string torch_folder;
  std::vector<std::string> openmp_paths;
};

int note_library(dl_phdr_info* info, size_t, void* data) {
  auto& found = *static_cast<LoadedLibraries*>(data);
  const std::string path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.rfind("libtorch_cpu", 0) == 0) found.torch_folder = path.substr(0, slash + 1);
  for (const char* stem : {"libgomp", "libomp", "libiomp5"}) {
    if (name.rfind(stem, 0) == 0) found.openmp_paths.push_back(path);
  }
  return 0;
}

// torch's OpenMP runtime: the one in torch's own folder, else the only kind of place a system build takes it from.
GompParallel find_torch_team() {
  LoadedLibraries found;
  dl_iterate_phdr(note_library, &found);
  if (found.torch_folder.empty() || found.openmp_paths.empty()) return nullptr;
  std::string path = found.openmp_paths.front();
  for (const std::string& candidate : found.openmp_paths) {
    if (candidate.rfind(found.torch_folder, 0) == 0) path = candidate;
  }
  void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
}

// An OpenMP team does not survive a fork: a child process uses threads of its own.
std::atomic<bool> g_forked{false};

GompParallel torch_team() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { g_forked = true; }); });
  if (g_forked) return nullptr;
  // torch may be imported later than this module, so a search that found nothing is repeated when libraries were added.
  static std::mutex mutex;
  static GompParallel team = nullptr;
  static unsigned long long searched_at = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  if (team == nullptr) {
    unsigned long long added = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          *static_cast<unsigned long long*>(data) = info->dlpi_adds;
          return 1;
        },
        &added);
    if (added != searched_at) {
      searched_at = added;
      team = find_torch_team();
    }
  }
  return team;
}

struct Queue {
  void (*work)(void*, int64_t);
  void* data;
  int64_t pieces;
  std::atomic<int64_t> next{0};
};

// Each thread takes pieces until none is left, so a team smaller than asked for does the work too.
void drain(void* data) {
  Queue& queue = *static_cast<Queue*>(data);
  for (int64_t piece = queue.next++; piece < queue.pieces; piece = queue.next++) {
    queue.work(queue.data, piece);
  }
}

}  // namespace

void run_pieces(int64_t pieces, void (*work)(void*, int64_t), void* data) {
  Queue queue{work, data, pieces, {}};
  if (const GompParallel team = torch_team()) {
    team(drain, &queue, static_cast<unsigned>(pieces), 0);
    return;
  }
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(pieces) - 1);
  for (int64_t t = 1; t < pieces; ++t) threads.emplace_back(drain, &queue);
  drain(&queue);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace certcal
