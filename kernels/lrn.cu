// Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3);
// functions/lrn.py derives the gradient.
//
//     s[c] = k + alpha * sum of x[j]^2, j = c - before .. c + after, within the row
//     y[c] = x[c] s[c]^-beta
//     gx[c] = gy[c] s[c]^-beta - 2 alpha beta x[c] * sum of t[j], j = c - after .. c + before
//     t[j] = gy[j] x[j] s[j]^(-beta-1)
//
//     block = the C channels of one group of one pixel; threads stride over the channels
//     the row's squares are in shared memory, with zeros at both ends, so no window is cut off:
//     [0 0 | q0 q1 q2 ... | 0 0]
//
// Bytes per element: forward reads 4, writes 4; backward reads 8, writes 4 (the neighbours come
// from shared memory).
#include "prelude.cuh"

// Write zeros to the `front` places before and the `back` places after the C places of a row in
// shared memory. Returns where the C places begin.
__device__ inline real *clear_ends(real *row, int C, int front, int back) {
  for (int i = threadIdx.x; i < front; i += blockDim.x) row[i] = 0;
  for (int i = threadIdx.x; i < back; i += blockDim.x) row[front + C + i] = 0;
  return row + front;
}

// Sum of the n numbers from a on, computed afresh for each window, because a running sum would
// drift. `paper`: n is 5, and the sum is written out so that loops around it vectorise.
template <bool paper> __device__ inline real window(const real *a, int n) {
  if (paper) return a[0] + a[1] + a[2] + a[3] + a[4];
  real total = 0;
  for (int j = 0; j < n; ++j) total += a[j];
  return total;
}

template <bool paper>
__device__ inline void forward(const real *__restrict__ x, real *__restrict__ y,
                               real *__restrict__ squares, int C, int before, int after, real k,
                               real alpha, real beta) {
  real *centre = clear_ends(squares, C, before, after);
  for (int c = threadIdx.x; c < C; c += blockDim.x) centre[c] = x[c] * x[c];
  __syncthreads();
  int n = before + 1 + after;
  for (int c = threadIdx.x; c < C; c += blockDim.x)
    y[c] = x[c] * power<paper>(k + alpha * window<paper>(squares + c, n), beta);
}

extern "C" __global__ void lrn_forward(const real *__restrict__ x /* blocks * C */,
                                       real *__restrict__ y /* blocks * C */, int C, int before,
                                       int after, real k, real alpha, real beta) {
  SHARED(real, squares);
  i64 row = (i64)blockIdx.x * C;
  if (before == 2 && after == 2 && beta == (real)0.75)
    forward<true>(x + row, y + row, squares, C, before, after, k, alpha, beta);
  else forward<false>(x + row, y + row, squares, C, before, after, k, alpha, beta);
}

template <bool paper>
__device__ inline void backward(const real *__restrict__ x, const real *__restrict__ gy,
                                real *__restrict__ gx, real *__restrict__ squares,
                                real *__restrict__ t, int C, int before, int after, real k,
                                real alpha, real beta) {
  clear_ends(squares, C, before, after);
  real *__restrict__ t_centre =
      clear_ends(t, C, after, before);  // the transpose: windows the other way round
  for (int c = threadIdx.x; c < C; c += blockDim.x) squares[before + c] = x[c] * x[c];
  __syncthreads();
  int n = before + 1 + after;
  for (int c = threadIdx.x; c < C; c += blockDim.x) {
    real s = k + alpha * window<paper>(squares + c, n), scaled = gy[c] * power<paper>(s, beta);
    gx[c] = scaled;
    t_centre[c] = scaled * x[c] / s;
  }
  __syncthreads();
  real factor = 2 * alpha * beta;
  for (int c = threadIdx.x; c < C; c += blockDim.x)
    gx[c] -= factor * x[c] * window<paper>(t + c, n);
}

extern "C" __global__ void lrn_backward(const real *__restrict__ x /* blocks * C */,
                                        const real *__restrict__ gy /* blocks * C */,
                                        real *__restrict__ gx /* blocks * C */, int C, int before,
                                        int after, real k, real alpha, real beta) {
  SHARED(real, squares);
  real *t = squares + C + before + after;
  i64 row = (i64)blockIdx.x * C;
  if (before == 2 && after == 2 && beta == (real)0.75)
    backward<true>(x + row, gy + row, gx + row, squares, t, C, before, after, k, alpha, beta);
  else backward<false>(x + row, gy + row, gx + row, squares, t, C, before, after, k, alpha, beta);
}
