// Defines the CUDA names that the kernels use, for a C++ compiler. A block has one thread; barriers
// and reductions do nothing. With HOST_BLOCK (tests only) a block has that many real threads and a
// real barrier, so that a missing barrier is found without a GPU.
#pragma once
#include <cmath>

struct Index3 {
  int x, y, z;
};
extern thread_local Index3 blockIdx;
extern thread_local char *host_shared;  // this thread's stand-in for shared memory
#ifdef HOST_BLOCK
extern thread_local Index3 threadIdx;
static constexpr Index3 blockDim = {HOST_BLOCK, 1, 1};
void __syncthreads();
#else
static constexpr Index3 threadIdx = {0, 0, 0}, blockDim = {1, 1, 1};
#define __syncthreads()
#define BLOCK_REDUCE(name, op)                                                                     \
  static inline real name(real value, real *) { return value; }
#endif

// Each kernel is compiled for several instruction sets, and the best one that the processor has is
// chosen when the library is loaded. The sets are named by features, because a clone for
// "arch=haswell" would be chosen only on that exact model.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(NO_CLONES)
#if __GNUC__ >= 12 || __clang_major__ >= 18
#define __global__ __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define __global__ __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define __global__
#endif
#define __device__ static __attribute__((always_inline))
#define __restrict__ __restrict
#define UNROLL
#define CHANNELS 256
#define SHARED(type, name) type *name = reinterpret_cast<type *>(host_shared);

using std::exp;
using std::log;
using std::pow;
using std::sqrt;
