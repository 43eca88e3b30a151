// Defines the CUDA names for a build that records every access to memory. Kernels are compiled with
// Pointer<T> in place of T * (minigrad/kernels/trace.py rewrites the sources). A block has as many
// real threads as requested, with a real barrier.
//
// An access outside its array is recorded but not carried out; such a load gives 0.
#pragma once
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <source_location>
#include <thread>
#include <type_traits>
#include <vector>

struct Index3 {
  int x, y, z;
};
inline thread_local Index3 blockIdx, threadIdx;
inline Index3 blockDim = {1, 1, 1};

// One access, in the layout that minigrad/kernels/trace.py reads.
struct Access {
  long long offset;  // bytes from the beginning of the array
  const char *file;
  int block, thread, epoch;  // epoch: barriers that this thread has passed in its block
  int array;  // number of the parameter; -1 for shared memory
  int line, column, size, write;
};

namespace tracing {
inline std::vector<Access> accesses;
inline std::mutex guard;
inline thread_local std::vector<Access> own;
inline thread_local int epoch;
inline std::unique_ptr<std::barrier<>> gate;
inline long long sizes[64];  // bytes of each array
inline long long shared_size;  // bytes of shared memory
inline int watched_array = -2;  // records only accesses to this array ...
inline long long watched_offset = 0;  // ... at this place; -2: all
inline std::vector<char> shared;
inline std::atomic<long long> outside{0};  // accesses outside their array, watched or not

inline bool note(int array, long long offset, int size, bool write, std::source_location at) {
  bool inside = 0 <= offset && offset + size <= (array < 0 ? shared_size : sizes[array]);
  if (!inside) ++outside;
  if (watched_array == -2 || (array == watched_array && offset == watched_offset))
    own.push_back({offset, at.file_name(), blockIdx.x, threadIdx.x, epoch, array, (int)at.line(),
                   (int)at.column(), size, write});
  return inside;
}
}  // namespace tracing

inline void __syncthreads() {
  ++tracing::epoch;
  if (blockDim.x > 1) tracing::gate->arrive_and_wait();
}

template <class T> struct Element;

// A subscript and its place in the source.
struct Subscript {
  long long value;
  std::source_location at;
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>
  Subscript(I i, std::source_location here = std::source_location::current())
      : value(i), at(here) {}
  template <class T>
  Subscript(const Element<T> &e, std::source_location here = std::source_location::current());
};

// The result of p[i]: a value when it is read, a place when it is assigned to.
template <class T> struct Element {
  using Value = std::remove_const_t<T>;
  T *place;
  int array;
  long long offset;
  std::source_location at;

  operator Value() const {
    bool inside = tracing::note(array, offset, sizeof(T), false, at);
    return inside ? *place : Value(0);
  }
  Value operator=(Value v) const {
    if (tracing::note(array, offset, sizeof(T), true, at)) *const_cast<Value *>(place) = v;
    return v;
  }
  Value operator=(const Element &other) const { return *this = Value(other); }
  Value operator+=(Value v) const { return *this = Value(*this) + v; }
  Value operator-=(Value v) const { return *this = Value(*this) - v; }
  Value operator/=(Value v) const { return *this = Value(*this) / v; }
};

template <class T>
Subscript::Subscript(const Element<T> &e, std::source_location here)
    : value((long long)(typename Element<T>::Value)e), at(here) {}

template <class T> struct Pointer {
  T *base;
  int array;
  long long start = 0;  // elements from the beginning of the array

  Pointer operator+(long long i) const { return {base, array, start + i}; }
  Element<T> operator[](Subscript i) const {
    long long n = start + i.value;
    return {base + n, array, n * (long long)sizeof(T), i.at};
  }
  operator Pointer<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {base, array, start};
  }
};

#define __global__
#define __device__ static
#define __restrict__
#define UNROLL
#define CHANNELS 1
#define SHARED(type, name) Pointer<type> name{reinterpret_cast<type *>(tracing::shared.data()), -1};

using std::exp;
using std::log;
using std::pow;
using std::sqrt;

template <class A> struct Argument {
  static A get(void *value, int) { return *static_cast<A *>(value); }
};
template <class T> struct Argument<Pointer<T>> {
  static Pointer<T> get(void *value, int n) { return {*static_cast<T **>(value), n}; }
};

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
  kernel(Argument<A>::get(args[I], (int)I)...);
}

// Run `count` blocks of a kernel from block `first` on, one after the other, each by `threads`
// threads.
template <class... A>
void run_traced(void (*kernel)(A...), long long first, long long count, int threads,
                long long shared_bytes, void **args, const long long *sizes) {
  using namespace tracing;
  accesses.clear();
  outside = 0;
  std::copy(sizes, sizes + sizeof...(A), tracing::sizes);
  shared_size = shared_bytes;
  blockDim.x = threads;
  for (long long block = first; block < first + count; ++block) {
    shared.assign(shared_bytes, (char)255);  // NaN
    gate = std::make_unique<std::barrier<>>(threads);
    auto body = [&](int t) {
      blockIdx.x = (int)block, threadIdx.x = t, epoch = 0;
      own.clear();
      call(kernel, args, std::index_sequence_for<A...>{});
      gate->arrive_and_drop();  // the other threads no longer wait for this one
      std::lock_guard<std::mutex> lock(guard);
      accesses.insert(accesses.end(), own.begin(), own.end());
    };
    if (threads == 1) {
      body(0);
      continue;
    }
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t) team.emplace_back(body, t);
    for (auto &thread : team) thread.join();
  }
}

#define TRACE(name)                                                                                \
  extern "C" void trace_##name(long long first, long long count, int threads, long long shared,    \
                               void **args, const long long *sizes) {                              \
    run_traced(name, first, count, threads, shared, args, sizes);                                  \
  }
extern "C" inline __attribute__((used)) void watch(int array, long long offset) {
  tracing::watched_array = array, tracing::watched_offset = offset;
}
extern "C" inline __attribute__((used)) long long recorded() {
  return (long long)tracing::accesses.size();
}
extern "C" inline __attribute__((used)) long long outside_arrays() { return tracing::outside; }
extern "C" inline __attribute__((used)) const Access *records() { return tracing::accesses.data(); }
