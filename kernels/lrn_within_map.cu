// Response normalisation over the pixels of each map, n = before + 1 + after;
// functions/lrn_within_map.py derives the gradient.
//
//     s[h, w] = k + alpha * sum of x^2 over the n x n pixels around (h, w), inside the map
//     gx = gy s^-beta - 2 alpha beta x * sum of t over the pixels whose window holds (h, w)
//     t = gy x s^(-beta-1)
//
//     block = one row (n, h);  a thread = CHANNELS channels of one pixel, which it adds up from
//     the pixels around it; t goes to global memory, because the pixels around belong to others
//
// Bytes per element: forward reads 4, writes 4; terms reads 8, writes 8; backward reads 12, writes
// 4 (the pixels around come from the caches).
#include "prelude.cuh"

// total[c] = the sum of a, or with `square` of a^2, over the pixels around (h, w) of one map.
template <bool square>
__device__ inline void around(const real *__restrict__ a, real (&total)[CHANNELS], int h, int w,
                              int H, int W, int C, int channels, int before, int after) {
  for (int i = 0; i < channels; ++i) total[i] = 0;
  for (int y = most(0, h - before); y < least(H, h + after + 1); ++y) {
    for (int x = most(0, w - before); x < least(W, w + after + 1); ++x) {
      const real *in = a + ((i64)y * W + x) * C;
      for (int i = 0; i < channels; ++i) total[i] += square ? in[i] * in[i] : in[i];
    }
  }
}

// s^-beta for a whole launch.
__device__ inline real any_power(real s, real beta) {
  return beta == (real)0.75 ? power<true>(s, beta) : power<false>(s, beta);
}

extern "C" __global__ void
lrn_within_map_forward(const real *__restrict__ x /* up(blocks, H) * W * C */,
                       real *__restrict__ y /* blocks * W * C */, int H, int W, int C, int before,
                       int after, real k, real alpha, real beta) {
  int h = blockIdx.x % H, pieces = (C + CHANNELS - 1) / CHANNELS;
  const real *map = x + (i64)(blockIdx.x - h) * W * C;
  for (int e = threadIdx.x; e < W * pieces; e += blockDim.x) {
    int w = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c);
    real s[CHANNELS];
    around<true>(map + c, s, h, w, H, W, C, channels, before, after);
    i64 here = ((i64)blockIdx.x * W + w) * C + c;
    for (int i = 0; i < channels; ++i)
      y[here + i] = x[here + i] * any_power(k + alpha * s[i], beta);
  }
}

extern "C" __global__ void
lrn_within_map_terms(const real *__restrict__ x /* up(blocks, H) * W * C */,
                     const real *__restrict__ gy /* blocks * W * C */,
                     real *__restrict__ gx /* blocks * W * C */,
                     real *__restrict__ t /* blocks * W * C */, int H, int W, int C, int before,
                     int after, real k, real alpha, real beta) {
  int h = blockIdx.x % H, pieces = (C + CHANNELS - 1) / CHANNELS;
  const real *map = x + (i64)(blockIdx.x - h) * W * C;
  for (int e = threadIdx.x; e < W * pieces; e += blockDim.x) {
    int w = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c);
    real s[CHANNELS];
    around<true>(map + c, s, h, w, H, W, C, channels, before, after);
    i64 here = ((i64)blockIdx.x * W + w) * C + c;
    for (int i = 0; i < channels; ++i) {
      real scale = k + alpha * s[i], scaled = gy[here + i] * any_power(scale, beta);
      gx[here + i] = scaled;
      t[here + i] = scaled * x[here + i] / scale;
    }
  }
}

extern "C" __global__ void
lrn_within_map_backward(const real *__restrict__ x /* blocks * W * C */,
                        const real *__restrict__ t /* up(blocks, H) * W * C */,
                        real *__restrict__ gx /* blocks * W * C */, int H, int W, int C, int before,
                        int after, real factor) {
  int h = blockIdx.x % H, pieces = (C + CHANNELS - 1) / CHANNELS;
  const real *map = t + (i64)(blockIdx.x - h) * W * C;
  for (int e = threadIdx.x; e < W * pieces; e += blockDim.x) {
    int w = e / pieces, c = e % pieces * CHANNELS, channels = least(CHANNELS, C - c);
    real cross[CHANNELS];
    around<false>(map + c, cross, h, w, H, W, C, channels, before, after);
    i64 here = ((i64)blockIdx.x * W + w) * C + c;
    for (int i = 0; i < channels; ++i) gx[here + i] -= factor * x[here + i] * cross[i];
  }
}
