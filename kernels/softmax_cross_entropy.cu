// Softmax and cross-entropy:
//     loss[n] = log sum of exp(x[n, j]) - x[n, t[n]],   gx[n, i] = gy[n] (p[n, i] - [i = t[n]])
//
//     block = one row of C logits; threads stride over them and combine by a block reduction
//
// Bytes per element: forward reads 4 (three times, from cache) and writes 4; backward reads 4 and
// writes 4.
#include "prelude.cuh"

extern "C" __global__ void softmax_cross_entropy_forward(
    const real *__restrict__ x /* blocks * C */, const i64 *__restrict__ t /* blocks */,
    real *__restrict__ p /* blocks * C */, real *__restrict__ loss /* blocks */, int C) {
  SHARED(real, slots);
  const real *row = x + (i64)blockIdx.x * C;
  real *out = p + (i64)blockIdx.x * C;
  real largest = row[0];
  for (int c = threadIdx.x; c < C; c += blockDim.x)
    largest = largest > row[c] || largest != largest ? largest : row[c];
  largest = block_max(largest, slots);
  real total = 0;
  for (int c = threadIdx.x; c < C; c += blockDim.x) total += out[c] = exp(row[c] - largest);
  total = block_sum(total, slots);
  for (int c = threadIdx.x; c < C; c += blockDim.x) out[c] /= total;
  i64 label = t[blockIdx.x];
  bool known = 0 <= label && label < C;  // otherwise NaN, and nothing is read outside of x
  if (threadIdx.x == 0)
    loss[blockIdx.x] = known ? log(total) - (row[label] - largest) : log((real)-1);
}

extern "C" __global__ void softmax_cross_entropy_backward(
    const real *__restrict__ p /* blocks * C */, const i64 *__restrict__ t /* blocks */,
    const real *__restrict__ gy /* blocks */, real *__restrict__ gx /* blocks * C */, int C) {
  const real *row = p + (i64)blockIdx.x * C;
  real *out = gx + (i64)blockIdx.x * C;
  real g = gy[blockIdx.x];
  for (int c = threadIdx.x; c < C; c += blockDim.x)
    out[c] = g * (row[c] - (c == t[blockIdx.x] ? (real)1 : (real)0));
}
