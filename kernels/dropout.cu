// Dropout: y = kept * scale * x, where element i is kept if its 32 random bits are at least
// `threshold` = p 2^32. Forward and backward are the same.
//
//     block = `span` numbers in a row (a multiple of 4); one Philox call serves four neighbours
//     start (a multiple of 4): the element of the whole batch that x begins with
//
// The bits are those of minigrad/random.py, Philox4x32-10: counter (i / 4, 0, draw low, draw high),
// key (seed, stream), word i % 4. Bytes per element: reads 4, writes 4.
#include "prelude.cuh"

__device__ inline void philox(u32 c[4], u32 k0, u32 k1) {
  for (int round = 0; round < 10; ++round) {
    u64 p = (u64)c[0] * 0xD2511F53u, q = (u64)c[2] * 0xCD9E8D57u;
    u32 c0 = (u32)(q >> 32) ^ c[1] ^ k0, c2 = (u32)(p >> 32) ^ c[3] ^ k1;
    c[0] = c0, c[1] = (u32)q, c[2] = c2, c[3] = (u32)p;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

extern "C" __global__ void dropout(const real *__restrict__ x /* size */,
                                   real *__restrict__ y /* size */, i64 size, i64 start, int span,
                                   u32 threshold, real scale, u32 seed, u32 stream, u32 draw_low,
                                   u32 draw_high) {
  i64 first = (i64)blockIdx.x * span;
  int count = size - first < span ? (int)(size - first) : span;
  for (int i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
    u32 words[4] = {(u32)((start + first + i) / 4), 0, draw_low, draw_high};
    philox(words, seed, stream);
    for (int j = 0; j < 4 && i + j < count; ++j) {
      real v = x[first + i + j];
      y[first + i + j] = words[j] >= threshold ? v * scale : v * 0;
    }
  }
}
