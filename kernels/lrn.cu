// Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3); functions/lrn.py derives the gradient.
//
//     s[c] = k + alpha * sum of x[j]^2, j = c - before .. c + after, within the row      y[c] = x[c] s[c]^-beta
//     gx[c] = gy[c] s[c]^-beta - 2 alpha beta x[c] * sum of t[j], j = c - after .. c + before,   t[j] = gy[j] x[j] s[j]^(-beta-1)
//
//     block = the C channels of one group of one pixel; threads stride over the channels. t is kept in shared memory.
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

// Call step(c, window sum around c) for every channel: the clipped windows at both ends, the whole ones between.
template <bool square, class Step>
__device__ inline void each_window(const real *a, int C, int before, int after, Step step) {
  int lo = least(before, C), hi = most(lo, C - after);
  for (int c = threadIdx.x; c < lo; c += blockDim.x) step(c, clipped_sum<square>(a, c, C, before, after));
  if (before == 2 && after == 2) {
    for (int c = lo + threadIdx.x; c < hi; c += blockDim.x) step(c, whole_sum<square, true>(a, c, before, after));
  } else {
    for (int c = lo + threadIdx.x; c < hi; c += blockDim.x) step(c, whole_sum<square, false>(a, c, before, after));
  }
  for (int c = hi + threadIdx.x; c < C; c += blockDim.x) step(c, clipped_sum<square>(a, c, C, before, after));
}

// s^-beta. The paper's 0.75 needs two square roots only.
template <bool three_quarters> __device__ inline real power(real s, real beta) {
  if (three_quarters) {
    real root = sqrt(s);
    return 1 / (root * sqrt(root));
  }
  return pow(s, -beta);
}

extern "C" __global__ void lrn_forward(const real *__restrict__ x, real *__restrict__ y, int C, int before, int after, real k,
                                       real alpha, real beta) {
  const real *xs = x + (i64)blockIdx.x * C;
  real *__restrict__ ys = y + (i64)blockIdx.x * C;
  if (beta == (real)0.75) {
    each_window<true>(xs, C, before, after, [=](int c, real sum) { ys[c] = xs[c] * power<true>(k + alpha * sum, beta); });
  } else {
    each_window<true>(xs, C, before, after, [=](int c, real sum) { ys[c] = xs[c] * power<false>(k + alpha * sum, beta); });
  }
}

extern "C" __global__ void lrn_backward(const real *__restrict__ x, const real *__restrict__ gy, real *__restrict__ gx, int C,
                                        int before, int after, real k, real alpha, real beta) {
  SHARED(real, t);
  const real *xs = x + (i64)blockIdx.x * C, *gys = gy + (i64)blockIdx.x * C;
  real *__restrict__ gxs = gx + (i64)blockIdx.x * C;
  if (beta == (real)0.75) {
    each_window<true>(xs, C, before, after, [=](int c, real sum) {
      real s = k + alpha * sum;
      gxs[c] = gys[c] * power<true>(s, beta);
      t[c] = gxs[c] * xs[c] / s;
    });
  } else {
    each_window<true>(xs, C, before, after, [=](int c, real sum) {
      real s = k + alpha * sum;
      gxs[c] = gys[c] * power<false>(s, beta);
      t[c] = gxs[c] * xs[c] / s;
    });
  }
  __syncthreads();
  real factor = 2 * alpha * beta;
  each_window<false>(t, C, after, before, [=](int c, real sum) { gxs[c] -= factor * xs[c] * sum; });
}
