// The pool of threads that runs the blocks of a kernel on a CPU.
//
// Blocks are handed out in small portions to whichever thread is free, so a thread that the system
// has suspended delays only its own portion. Idle threads sleep. Each block writes only its own
// elements, so the result has the same bits at any number of threads. The BLAS runs its jobs on the
// same pool (run_blas_jobs).
#pragma once

#ifdef HOST_BLOCK
#include <barrier>
#include <chrono>
#endif
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

thread_local Index3 blockIdx;
#ifdef HOST_BLOCK
thread_local Index3 threadIdx;
static std::barrier<> block_barrier(HOST_BLOCK);
void __syncthreads() { block_barrier.arrive_and_wait(); }
#endif
thread_local char *host_shared;

namespace {

struct Launch {
  void (*body)(void **);  // runs one block: the one in blockIdx
  void **args;
  i64 blocks, portion, shared_bytes;
  std::atomic<i64> next{0};
  int seats = 0;  // helpers that may still join

#ifdef HOST_BLOCK
  // The threads of a block start one after the other, in an order that changes from block to block:
  // a thread that does not wait at a barrier reads values that are not there yet. Shared memory
  // starts as NaN.
  void work() {
    std::vector<char> shared(shared_bytes + 64);
    std::vector<std::thread> team;
    for (int t = 0; t < HOST_BLOCK; ++t) {
      team.emplace_back([&, t] {
        host_shared = shared.data() + (64 - reinterpret_cast<std::size_t>(shared.data()) % 64);
        threadIdx.x = t;
        for (i64 b = 0; b < blocks; ++b) {
          if (t == 0) std::memset(shared.data(), 255, shared.size());
          __syncthreads();
          blockIdx.x = int(b);
          std::this_thread::sleep_for(std::chrono::microseconds(100 * ((t + b) % HOST_BLOCK)));
          body(args);
          __syncthreads();
        }
      });
    }
    for (auto &thread : team) thread.join();
  }
#else
  void work() {
    std::vector<char> shared(shared_bytes + 64);
    host_shared = shared.data() + (64 - reinterpret_cast<std::size_t>(shared.data()) % 64);
    for (;;) {
      i64 first = next.fetch_add(portion),
          last = first + portion < blocks ? first + portion : blocks;
      if (first >= blocks) return;
      for (i64 b = first; b < last; ++b) {
        blockIdx.x = int(b);
        body(args);
      }
    }
  }
#endif
};

// Threads that sleep until there is work.
struct Pool {
  std::mutex caller, mutex;  // caller is held by whoever runs a launch; mutex guards the rest
  std::condition_variable wake, done;
  Launch *launch = nullptr;
  u64 number = 0;  // of the launch
  int working = 0, helpers = 0;

  void help() {
    std::unique_lock<std::mutex> lock(mutex);
    for (u64 seen = 0;;) {
      wake.wait(lock, [&] { return launch && launch->seats && number != seen; });
      seen = number;
      Launch *mine = launch;
      --mine->seats;
      ++working;
      lock.unlock();
      mine->work();
      lock.lock();
      if (--working == 0) done.notify_one();
    }
  }

  // Start helpers until there are `wanted`, and return how many there are. Like run, this may be
  // called only by the thread that holds `caller`.
  int hire(int wanted) {
    try {
      for (; helpers < wanted; ++helpers) std::thread([this] { help(); }).detach();
    } catch (const std::system_error &) {  // the system gives no more threads: use these
    }
    return helpers;
  }

  void run(Launch &l, int threads) {
    int seats = least(threads - 1, hire(threads - 1));
    {
      std::lock_guard<std::mutex> lock(mutex);
      l.seats = seats;
      launch = &l;
      ++number;
    }
    wake.notify_all();
    l.work();
    std::unique_lock<std::mutex> lock(mutex);
    launch = nullptr;  // a helper that wakes after this goes back to sleep
    done.wait(lock, [&] { return working == 0; });
  }
};

Pool *pool;  // never destroyed: its threads outlive main
const int ready = [] {
  pool = new Pool;
  return pthread_atfork(nullptr, nullptr,
                        [] { pool = new Pool; });  // after a fork the threads are gone
}();

template <class... A, std::size_t... I>
inline void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
  kernel(*static_cast<A *>(args[I])...);
}
template <auto kernel, class... A> void body_of(void **args, void (*)(A...)) {
  call(kernel, args, std::index_sequence_for<A...>{});
}

void run(void (*body)(void **), i64 blocks, i64 shared_bytes, void **args, int threads) {
  Launch l{body, args, blocks, 1, shared_bytes};
  l.portion = blocks / (i64(16) * threads) > 1 ? blocks / (i64(16) * threads) : 1;
  std::unique_lock<std::mutex> turn(pool->caller, std::try_to_lock);
#ifdef HOST_BLOCK
  return l.work();
#endif
  if (!turn || threads < 2 || l.blocks <= l.portion)
    return l.work();  // another thread has the pool: work alone
  pool->run(l, threads);
}

}  // namespace

// Once minigrad/kernels has set it up, OpenBLAS calls this instead of using its own threads. These
// would poll for a while after each product and keep the kernels' threads from the processors. The
// jobs wait for each other, so each gets its own thread.
struct BlasJobs {
  void (*job)(int number, void *data, int extra);
  char *data;
  std::size_t size;
  int extra;
};

extern "C" void run_blas_jobs(int, void (*job)(int, void *, int), int count, std::size_t size,
                              void *data, int extra) {
  BlasJobs jobs{job, static_cast<char *>(data), size, extra};
  void *args[] = {&jobs};
  auto body = [](void **a) {
    BlasJobs &j = *static_cast<BlasJobs *>(a[0]);
    j.job(blockIdx.x, j.data + blockIdx.x * j.size, j.extra);
  };
  Launch l{body, args, count, 1, 0};
  std::lock_guard<std::mutex> turn(pool->caller);
  for (bool told = false; pool->hire(count - 1) < count - 1; told = true) {
    if (!told)
      std::fprintf(stderr,
                   "minigrad: waiting until the system grants %d threads for the BLAS;"
                   " set OPENBLAS_NUM_THREADS to use fewer\n",
                   count);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  pool->run(l, count);
}

// How many of `count` jobs can run at once. This is asked before the callback is given to the BLAS,
// because the callback cannot refuse.
extern "C" int threads_for_blas(int count) {
  std::lock_guard<std::mutex> turn(pool->caller);
  return least(pool->hire(count - 1), count - 1) + 1;
}

// Launched like cuLaunchKernel: args[i] points to the i-th argument.
#define HOST_KERNEL(name)                                                                          \
  extern "C" void launch_##name(i64 blocks, i64 shared_bytes, void **args, int threads) {          \
    run([](void **a) { body_of<&name>(a, &name); }, blocks, shared_bytes, args, threads);          \
  }
