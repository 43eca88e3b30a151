// Shared by every kernel file: `real`, and the few helpers that differ between a GPU and a CPU.
//
// The rule of these files: one block does one row of work, and its threads stride over what is
// contiguous,
//     for (int c = threadIdx.x; c < C; c += blockDim.x) ...
// correct for any block size. On a GPU adjacent threads touch adjacent channels. On a CPU a block
// has one thread, and the loop is a plain contiguous one, which the compiler vectorises.
//
// For the GPU, this text is put in front of each file before NVRTC compiles it; for the CPU, it is
// included once.
#pragma once

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifdef HOST
#include "host.h"
#else
// Written before a loop: unrolls it by four, so that a thread waits for four loads from memory at
// once, not one after the other. (Empty on a CPU, where the compiler vectorises the loop.)
#define UNROLL _Pragma("unroll 4")
// How many neighbouring channels a thread takes together. Here it is one, so that the sum stays in
// a register. (On a CPU it is enough for the compiler to vectorise, in an array that stays in the
// first-level cache.)
#define CHANNELS 1
// Dynamic shared memory, sized at the launch.
#define SHARED(type, name)                                                                         \
  extern __shared__ __align__(16) char shared_[];                                                  \
  type *name = reinterpret_cast<type *>(shared_);
#endif

#ifndef BLOCK_REDUCE
// Combine the values of all threads of the block, one per thread, with `op`; every thread gets the
// result. `slots`: shared memory, blockDim.x values.
#define BLOCK_REDUCE(name, op)                                                                     \
  __device__ inline real name(real value, real *slots) {                                           \
    __syncthreads();                                                                               \
    slots[threadIdx.x] = value;                                                                    \
    __syncthreads();                                                                               \
    real total = slots[0]; /* the same order in every thread: the same bits */                     \
    for (int i = 1; i < (int)blockDim.x; ++i) {                                                    \
      real a = total, b = slots[i];                                                                \
      total = (op);                                                                                \
    }                                                                                              \
    return total;                                                                                  \
  }
#endif

BLOCK_REDUCE(block_sum, a + b)
BLOCK_REDUCE(block_max, a > b || a != a ? a : b)

__device__ inline int least(int a, int b) { return a < b ? a : b; }
__device__ inline int most(int a, int b) { return a > b ? a : b; }
// The first and the last window that reach pixel p along one axis, of `count` windows.
__device__ inline int first_window(int p, int kernel, int stride, int padding) {
  return most(0, (p + padding - kernel + stride) / stride);
}
__device__ inline int last_window(int p, int stride, int padding, int count) {
  return least(count - 1, (p + padding) / stride);
}

// s^-beta, for both normalisations. `paper`: beta is 0.75, which needs two square roots and a
// division; an infinite s gives 0.
template <bool paper> __device__ inline real power(real s, real beta) {
  if (!paper) return pow(s, -beta);
  real root = sqrt(s);
  return 1 / (root * sqrt(root));
}
