// Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3); functions/lrn.py derives the gradient.
//
//     s[c] = k + alpha * sum of x[j]^2, j = c - before .. c + after, within the row      y[c] = x[c] s[c]^-beta
//     gx[c] = gy[c] s[c]^-beta - 2 alpha beta x[c] * sum of t[j], j = c - after .. c + before,   t[j] = gy[j] x[j] s[j]^(-beta-1)
//
//     block = the C channels of one group of one pixel; threads stride over the channels. Window sums first, into shared memory, then
//     the powers: so the costly loop runs over whole rows, borders and all.
//
// Bytes an element: forward reads 4, writes 4; backward reads 8, writes 4 (the neighbours come from cache).
#include "prelude.cuh"

// sum of a[j]^2 (square) or a[j] over c - before <= j <= c + after, clipped to 0 .. C - 1. Fresh sums: a running sum drifts.
template <bool square> __device__ inline real clipped_sum(const real *a, int c, int C, int before, int after) {
  real total = 0;
  for (int j = most(0, c - before); j <= least(C - 1, c + after); ++j) total += square ? a[j] * a[j] : a[j];
  return total;
}

// The same where the whole window is inside. Five terms, the paper's n, are written out, so that the loop over c vectorises.
template <bool square, bool five> __device__ inline real whole_sum(const real *a, int c, int before, int after) {
  if (five) {
    real p = a[c - 2], q = a[c - 1], r = a[c], s = a[c + 1], t = a[c + 2];
    return square ? p * p + q * q + r * r + s * s + t * t : p + q + r + s + t;
  }
  real total = 0;
  for (int j = c - before; j <= c + after; ++j) total += square ? a[j] * a[j] : a[j];
  return total;
}

// sums[c] = window sum around c for every channel: the clipped windows at both ends, the whole ones between.
template <bool square> __device__ inline void window_sums(const real *a, real *sums, int C, int before, int after) {
  int lo = least(before, C), hi = most(lo, C - after);
  for (int c = threadIdx.x; c < lo; c += blockDim.x) sums[c] = clipped_sum<square>(a, c, C, before, after);
  if (before == 2 && after == 2) {
    for (int c = lo + threadIdx.x; c < hi; c += blockDim.x) sums[c] = whole_sum<square, true>(a, c, before, after);
  } else {
    for (int c = lo + threadIdx.x; c < hi; c += blockDim.x) sums[c] = whole_sum<square, false>(a, c, before, after);
  }
  for (int c = hi + threadIdx.x; c < C; c += blockDim.x) sums[c] = clipped_sum<square>(a, c, C, before, after);
  __syncthreads();
}

// s^-beta. The paper's 0.75 needs two square roots and a division; an infinite s gives 0.
template <bool three_quarters> __device__ inline real power(real s, real beta) {
  if (!three_quarters) return pow(s, -beta);
  real root = sqrt(s);
  return 1 / (root * sqrt(root));
}

template <bool three_quarters>
__device__ inline void forward(const real *__restrict__ x, real *__restrict__ y, const real *__restrict__ sums, int C, real k,
                               real alpha, real beta) {
  for (int c = threadIdx.x; c < C; c += blockDim.x) y[c] = x[c] * power<three_quarters>(k + alpha * sums[c], beta);
}

extern "C" __global__ void lrn_forward(const real *__restrict__ x, real *__restrict__ y, int C, int before, int after, real k,
                                       real alpha, real beta) {
  SHARED(real, sums);
  i64 row = (i64)blockIdx.x * C;
  window_sums<true>(x + row, sums, C, before, after);
  if (beta == (real)0.75) forward<true>(x + row, y + row, sums, C, k, alpha, beta);
  else forward<false>(x + row, y + row, sums, C, k, alpha, beta);
}

// gx = gy s^-beta, and t in place of the sums.
template <bool three_quarters>
__device__ inline void direct_term(const real *__restrict__ x, const real *__restrict__ gy, real *__restrict__ gx,
                                   real *__restrict__ sums, int C, real k, real alpha, real beta) {
  for (int c = threadIdx.x; c < C; c += blockDim.x) {
    real s = k + alpha * sums[c], scaled = gy[c] * power<three_quarters>(s, beta);
    gx[c] = scaled;
    sums[c] = scaled * x[c] / s;
  }
  __syncthreads();
}

extern "C" __global__ void lrn_backward(const real *__restrict__ x, const real *__restrict__ gy, real *__restrict__ gx, int C,
                                        int before, int after, real k, real alpha, real beta) {
  SHARED(real, t);
  real *sums = t + C;
  i64 row = (i64)blockIdx.x * C;
  window_sums<true>(x + row, t, C, before, after);
  if (beta == (real)0.75) direct_term<true>(x + row, gy + row, gx + row, t, C, k, alpha, beta);
  else direct_term<false>(x + row, gy + row, gx + row, t, C, k, alpha, beta);
  window_sums<false>(t, sums, C, after, before);
  real factor = 2 * alpha * beta;
  for (int c = threadIdx.x; c < C; c += blockDim.x) gx[row + c] -= factor * x[row + c] * sums[c];
}
